# BKD (BKDSNN, Xu et al., ECCV 2024) on CIFAR: as on ImageNet, with a larger alpha
_base_ = './bkd_imagenet.py'
distill = dict(losses=dict(loss_blur=dict(weight=2e-3)))
