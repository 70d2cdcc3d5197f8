# TSSD: Spiking VGG-9 on DVS128 Gesture, 16 frames in training. The plain config tests their first 8 with --cfg-options
# test_dataloader.dataset.T=16 test_dataloader.dataset.pipeline.0.first=8
_base_ = ['../spiking/spiking_vgg9_dvs128_gesture.py', '../_base_/distill/tssd.py']
T = 16
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=dict(_base_.model, backbone=dict(_base_.model.backbone, T=T)),
    **{
        **_base_.distill,
        'short_T': 8,
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
