# TET: the small Spiking-ResNet-18 on CIFAR-10, without a teacher
_base_ = ['../spiking/spiking_r18_cifar10_small.py', '../_base_/distill/tet.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
