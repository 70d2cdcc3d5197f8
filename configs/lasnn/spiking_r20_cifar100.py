# LaSNN: Spiking-ResNet-20 on CIFAR-100, taught by ResNet-20
_base_ = ['../spiking/spiking_r20_cifar100.py', '../_base_/distill/lasnn_r20.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/r20_cifar100.py',
    teacher_checkpoint='work_dirs/r20_cifar100/epoch_15.pth',
    **_base_.distill,
)
custom_hooks = [*_base_.custom_hooks, dict(type='mmsnn.DistillHook')]
