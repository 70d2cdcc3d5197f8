# Per-step logits: the small Spiking-ResNet-18 on CIFAR-10, taught by its ANN twin
_base_ = ['../spiking/spiking_r18_cifar10_small.py', '../_base_/distill/step_kd.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/r18_cifar10_small.py',
    teacher_checkpoint='work_dirs/r18_cifar10_small/epoch_12.pth',
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
