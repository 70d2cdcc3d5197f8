# TSSD: Spiking VGG-9 on CIFAR10-DVS, 10 frames in training. The plain config tests their first 5 with --cfg-options
# test_dataloader.dataset.T=10 test_dataloader.dataset.pipeline.0.first=5
_base_ = ['../spiking/spiking_vgg9_cifar10_dvs.py', '../_base_/distill/tssd.py']
T = 10
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=dict(_base_.model, backbone=dict(_base_.model.backbone, T=T)),
    **{
        **_base_.distill,
        'short_T': 5,
        'losses': dict(
            # the weak head is behind the second stage
            loss_self=dict(_base_.distill.losses.loss_self, student=['head.fc', 'backbone.features.13'])
        ),
    },
)
train_dataloader = dict(dataset=dict(T=T))
val_dataloader = dict(dataset=dict(T=T))
test_dataloader = dict(dataset=dict(T=T))
custom_hooks = [dict(type='mmsnn.DistillHook')]
