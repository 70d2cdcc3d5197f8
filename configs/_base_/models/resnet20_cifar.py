# ResNet-20 (He et al., CVPR 2016, part 4.2): three stages of 16, 32 and 64 channels, option-A shortcuts
_base_ = 'mmpretrain::_base_/models/resnet18_cifar.py'
model = dict(backbone=dict(_delete_=True, type='mmsnn.CIFARResNet', depth=20), head=dict(in_channels=64))
