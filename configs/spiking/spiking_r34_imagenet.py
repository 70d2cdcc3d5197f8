# Spiking-ResNet-34 on ImageNet with SAKD's neuron and recipe, undistilled
_base_ = './sew34_imagenet.py'
model = dict(
    backbone=dict(
        type='mmsnn.SpikingResNet',
        joint_neuron=dict(detach_reset=True),  # SAKD: in the stem and after the additions only
    )
)
