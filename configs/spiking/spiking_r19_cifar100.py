# Spiking ResNet-19 on CIFAR-100 with SAKD's neuron (here nowhere with a detached reset) and recipe, undistilled
_base_ = ['../ann/r19_cifar100.py', '../_base_/neurons/sakd.py']
model = dict(
    backbone=dict(type='mmsnn.SpikingResNet19', T=4, neuron=_base_.neuron, readout='none'),
    # a neuron between the two layers needs the time steps: the head averages
    head=dict(type='mmsnn.SpikingStackedLinearClsHead', T=4, neuron=_base_.neuron),
)
