# SEW-ResNet-50 on ImageNet with SAKD's neuron and recipe, undistilled
_base_ = './sew18_imagenet.py'
model = dict(backbone=dict(depth=50), head=dict(in_channels=2048))
