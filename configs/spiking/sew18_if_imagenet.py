# SEW-ResNet-18 on ImageNet with its paper's neuron and recipe, undistilled
_base_ = [
    'mmpretrain::_base_/models/resnet18.py',
    'mmpretrain::_base_/datasets/imagenet_bs32.py',
    '../_base_/neurons/sew.py',
    '../_base_/schedules/sew_imagenet.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
model = dict(backbone=dict(type='mmsnn.SEWResNet', T=4, neuron=_base_.neuron))
