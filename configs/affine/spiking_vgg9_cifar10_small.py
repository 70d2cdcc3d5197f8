# Affine projector: the small Spiking VGG-9 on CIFAR-10, taught by ResNet-56 with its published weights
_base_ = ['../spiking/spiking_vgg9_cifar10_small.py', '../_base_/distill/affine.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/r56_cifar10.py',
    teacher_checkpoint='{{$MMSNN_DATA_ROOT:../shared/data}}/cifar_resnets/resnet56-4bfd9763.th',
    **_base_.distill,
)
custom_hooks = [*_base_.custom_hooks, dict(type='mmsnn.DistillHook')]
