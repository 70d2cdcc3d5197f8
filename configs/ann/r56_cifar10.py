# ResNet-56 on CIFAR-10, a teacher whose published weights load as they are (README.md)
_base_ = './r20_cifar10.py'
model = dict(backbone=dict(depth=56))
