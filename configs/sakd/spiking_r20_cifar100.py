# SAKD: Spiking-ResNet-20 on CIFAR-100, taught by ResNet-20
_base_ = ['../spiking/spiking_r20_cifar100.py', '../_base_/distill/sakd_cifar_r20.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/r20_cifar100.py',
    teacher_checkpoint='work_dirs/r20_cifar100/epoch_15.pth',
    **_base_.distill,
)
custom_hooks = [*_base_.custom_hooks, dict(type='mmsnn.DistillHook')]
# Level 2's gradients are large for the weights of level 1 (norm 100 at the start): without a limit the network stays at
# chance level for seven epochs (README.md)
optim_wrapper = dict(clip_grad=dict(max_norm=2))
