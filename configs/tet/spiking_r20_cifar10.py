# TET: Spiking-ResNet-20 on CIFAR-10, without a teacher
_base_ = ['../spiking/spiking_r20_cifar10.py', '../_base_/distill/tet_r20.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    **_base_.distill,
)
custom_hooks = [*_base_.custom_hooks, dict(type='mmsnn.DistillHook')]
