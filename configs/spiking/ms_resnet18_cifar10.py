# MS-ResNet-18 on CIFAR-10 with its authors' neuron and norm, by SAKD's recipe
_base_ = ['./spiking_r18_cifar10.py', '../_base_/neurons/ms_resnet.py']
model = dict(backbone=_base_.ms_backbone)
