# LaSNN: Spiking-ResNet-20 on CIFAR-10, taught by ResNet-20 with its published weights
_base_ = ['../spiking/spiking_r20_cifar10.py', '../_base_/distill/lasnn_r20.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/r20_cifar10.py',
    teacher_checkpoint='{{$MMSNN_DATA_ROOT:../shared/data}}/cifar_resnets/resnet20-12fca82f.th',
    **_base_.distill,
)
custom_hooks = [*_base_.custom_hooks, dict(type='mmsnn.DistillHook')]
