# MS-ResNet-104 on ImageNet by its authors' recipe; theirs drops out a fifth of the classifier's input, which
# mmpretrain's head cannot
_base_ = './ms_resnet18_imagenet.py'
model = dict(backbone=dict(depth=104))
