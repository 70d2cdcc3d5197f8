# SAKD on ImageNet: SEW-ResNet-50 taught by ResNet-50
_base_ = ['../spiking/sew50_imagenet.py', '../_base_/distill/sakd_imagenet.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/r50_imagenet.py',
    teacher_checkpoint='torchvision://resnet50',
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
