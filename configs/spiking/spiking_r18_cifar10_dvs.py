# Spiking-ResNet-18 on CIFAR10-DVS with SAKD's neuron, undistilled
_base_ = [
    'mmpretrain::_base_/models/resnet18_cifar.py',
    '../_base_/datasets/cifar10_dvs.py',
    '../_base_/neurons/sakd.py',
    '../_base_/schedules/tssd_event.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
model = dict(
    backbone=dict(
        type='mmsnn.SpikingResNet',
        stem='cifar',
        in_channels=2,  # polarities
        T=_base_.T,
        neuron=_base_.neuron,
        joint_neuron=dict(detach_reset=True),  # SAKD: in the stem and after the additions only
    )
)
