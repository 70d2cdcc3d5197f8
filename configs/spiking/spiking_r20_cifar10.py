# Spiking-ResNet-20 on CIFAR-10 with SAKD's neuron, undistilled
_base_ = ['../ann/r20_cifar10.py', '../_base_/neurons/sakd.py']
model = dict(
    backbone=dict(
        type='mmsnn.SpikingResNet',
        T=4,
        neuron=_base_.neuron,
        joint_neuron=dict(detach_reset=True),  # SAKD: in the stem and after the additions only
    )
)
