# SAKD on ImageNet: SEW-ResNet-152 taught by ResNet-152
_base_ = ['../spiking/sew152_imagenet.py', '../_base_/distill/sakd_imagenet.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/r152_imagenet.py',
    teacher_checkpoint='torchvision://resnet152',
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
