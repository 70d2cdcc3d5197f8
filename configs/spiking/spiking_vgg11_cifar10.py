# Spiking VGG-11 on CIFAR-10 with SAKD's neuron and recipe
_base_ = ['../ann/r18_cifar10.py', '../_base_/neurons/sakd.py']
model = dict(
    backbone=dict(_delete_=True, type='mmsnn.SpikingVGG', depth=11, T=4, neuron=_base_.neuron, out_indices=(4,)),
)
