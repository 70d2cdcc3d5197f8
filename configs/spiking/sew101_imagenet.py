# SEW-ResNet-101 on ImageNet with SAKD's neuron and recipe, undistilled
_base_ = './sew18_imagenet.py'
model = dict(backbone=dict(depth=101), head=dict(in_channels=2048))
