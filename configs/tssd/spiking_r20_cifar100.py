# TSSD: Spiking-ResNet-20 on CIFAR-100, 8 steps in training, 4 in testing with the plain config
_base_ = ['../spiking/spiking_r20_cifar100.py', '../_base_/distill/tssd.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=dict(_base_.model, backbone=dict(_base_.model.backbone, T=8)),
    **_base_.distill,
)
custom_hooks = [*_base_.custom_hooks, dict(type='mmsnn.DistillHook')]
