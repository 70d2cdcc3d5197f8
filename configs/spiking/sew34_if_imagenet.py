# SEW-ResNet-34 on ImageNet with its paper's neuron and recipe, undistilled
_base_ = './sew18_if_imagenet.py'
model = dict(backbone=dict(depth=34))
