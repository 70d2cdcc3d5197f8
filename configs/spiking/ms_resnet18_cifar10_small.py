# MS-ResNet-18 on CIFAR-10, a quarter as wide, for two CPU cores
_base_ = ['./spiking_r18_cifar10_small.py', '../_base_/neurons/ms_resnet.py']
model = dict(backbone=_base_.ms_backbone)
