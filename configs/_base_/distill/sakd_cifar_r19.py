# SAKD on CIFAR with ResNet-19: three stages, and 1x1 projectors, as released
_base_ = './sakd_cifar_r20.py'
distill = dict(losses=dict(loss_feature=dict(connector=dict(kernel_size=1))))
