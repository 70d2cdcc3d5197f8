# SEW-ResNet-34 on ImageNet with SAKD's neuron and recipe, undistilled
_base_ = './sew18_imagenet.py'
model = dict(backbone=dict(depth=34))
