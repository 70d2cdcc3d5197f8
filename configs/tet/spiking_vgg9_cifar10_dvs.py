# TET: Spiking VGG-9 on CIFAR10-DVS, 10 frames, without a teacher
_base_ = ['../spiking/spiking_vgg9_cifar10_dvs.py', '../_base_/distill/tet.py']
T = 10
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=dict(_base_.model, backbone=dict(_base_.model.backbone, T=T)),
    **{
        **_base_.distill,
        'losses': dict(loss_tet=dict(_base_.distill.losses.loss_tet, student='backbone.features.27|neck|head.fc')),
    },
)
train_dataloader = dict(dataset=dict(T=T))
val_dataloader = dict(dataset=dict(T=T))
test_dataloader = dict(dataset=dict(T=T))
custom_hooks = [dict(type='mmsnn.DistillHook')]
