# MS-ResNet-34 on ImageNet by its authors' recipe
_base_ = './ms_resnet18_imagenet.py'
model = dict(backbone=dict(depth=34))
