# Spiking-ResNet-18 on Tiny ImageNet with SAKD's neuron and recipe, undistilled
_base_ = ['../ann/r18_tiny_imagenet.py', '../_base_/neurons/sakd.py']
model = dict(
    backbone=dict(
        type='mmsnn.SpikingResNet',
        stem='cifar',
        T=4,
        neuron=_base_.neuron,
        joint_neuron=dict(detach_reset=True),  # SAKD: in the stem and after the additions only
    )
)
