# BKD: SEW-ResNet-50 on ImageNet with the paper's neuron and recipe, taught by ResNet-50
_base_ = ['../spiking/sew50_if_imagenet.py', '../_base_/distill/bkd_imagenet.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/r50_imagenet.py',
    teacher_checkpoint='torchvision://resnet50',
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
