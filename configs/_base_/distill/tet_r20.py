# TET (Deng et al., ICLR 2022) on CIFAR with ResNet-20 to 110, whose last stage is the third
_base_ = './tet.py'
distill = dict(losses=dict(loss_tet=dict(student='backbone.layer3|neck|head.fc')))
