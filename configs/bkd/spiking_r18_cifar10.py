# BKD: Spiking-ResNet-18 on CIFAR-10, taught by ResNet-18
_base_ = ['../spiking/spiking_r18_cifar10.py', '../_base_/distill/bkd_cifar.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/r18_cifar10.py',
    teacher_checkpoint='work_dirs/r18_cifar10/epoch_200.pth',
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
