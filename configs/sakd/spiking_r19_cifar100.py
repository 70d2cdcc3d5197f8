# SAKD on CIFAR-100: Spiking ResNet-19 taught by ResNet-19
_base_ = ['../spiking/spiking_r19_cifar100.py', '../_base_/distill/sakd_cifar_r19.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/r19_cifar100.py',
    teacher_checkpoint='work_dirs/r19_cifar100/epoch_200.pth',
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
