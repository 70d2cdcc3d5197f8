# SAKD on ImageNet: SEW-ResNet-101 taught by ResNet-101
_base_ = ['../spiking/sew101_imagenet.py', '../_base_/distill/sakd_imagenet.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/r101_imagenet.py',
    teacher_checkpoint='torchvision://resnet101',
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
