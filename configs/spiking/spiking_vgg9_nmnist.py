# Spiking VGG-9 on N-MNIST, undistilled: the student of TSSD, with its neuron and recipe, a quarter as wide (ours)
_base_ = [
    '../_base_/models/spiking_vgg9.py',
    '../_base_/datasets/nmnist.py',
    '../_base_/schedules/tssd_event.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
# digits of 34 pixels need no more channels, and a CPU trains them
model = dict(backbone=dict(T=4, base_channels=16), head=dict(in_channels=128, num_classes=10))
