# Spiking VGG-9 on CIFAR10-DVS, undistilled: the student of TSSD, with its neuron and recipe
_base_ = [
    '../_base_/models/spiking_vgg9.py',
    '../_base_/datasets/cifar10_dvs.py',
    '../_base_/schedules/tssd_event.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
T = 5
model = dict(backbone=dict(T=T), head=dict(num_classes=10))
train_dataloader = dict(dataset=dict(T=T))
val_dataloader = dict(dataset=dict(T=T))
test_dataloader = dict(dataset=dict(T=T))
