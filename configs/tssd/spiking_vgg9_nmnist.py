# TSSD: Spiking VGG-9 on N-MNIST, 8 frames in training, validated on their first 4. The plain config tests these with
# --cfg-options test_dataloader.dataset.T=8 test_dataloader.dataset.pipeline.0.first=4
_base_ = ['../spiking/spiking_vgg9_nmnist.py', '../_base_/distill/tssd.py']
T = 8
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=dict(_base_.model, backbone=dict(_base_.model.backbone, T=T)),
    **{
        **_base_.distill,
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
