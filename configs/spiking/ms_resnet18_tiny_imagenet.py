# MS-ResNet-18 on Tiny ImageNet with its authors' neuron and norm, by the recipe of CIFAR
_base_ = ['./spiking_r18_tiny_imagenet.py', '../_base_/neurons/ms_resnet.py']
model = dict(backbone=_base_.ms_backbone)
