# SAKD on ImageNet: Spiking-ResNet-34 taught by ResNet-34
_base_ = ['../spiking/spiking_r34_imagenet.py', '../_base_/distill/sakd_imagenet.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/r34_imagenet.py',
    teacher_checkpoint='torchvision://resnet34',
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
