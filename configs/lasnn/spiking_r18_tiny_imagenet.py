# LaSNN: Spiking-ResNet-18 on Tiny ImageNet, taught by ResNet-18
_base_ = ['../spiking/spiking_r18_tiny_imagenet.py', '../_base_/distill/lasnn.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/r18_tiny_imagenet.py',
    teacher_checkpoint='work_dirs/r18_tiny_imagenet/epoch_200.pth',
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
