# BKD: Spikingformer-4-384 with CML on CIFAR-100, taught by ViT-S
_base_ = ['../spiking/spikingformer_4-384_cifar100.py', '../_base_/distill/bkd_vit.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/vit_s_cifar100.py',
    teacher_checkpoint='work_dirs/vit_s_cifar100/epoch_50.pth',
    **_base_.distill,
)
custom_hooks = [*_base_.custom_hooks, dict(type='mmsnn.DistillHook')]
