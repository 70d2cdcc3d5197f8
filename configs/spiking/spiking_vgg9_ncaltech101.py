# Spiking VGG-9 on N-Caltech101, with the neuron and the recipe of the other event sets (no paper's), undistilled
_base_ = [
    '../_base_/models/spiking_vgg9.py',
    '../_base_/datasets/ncaltech101.py',
    '../_base_/schedules/tssd_event.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
T = 10
model = dict(backbone=dict(T=T), head=dict(num_classes=101))
train_dataloader = dict(dataset=dict(T=T))
val_dataloader = dict(dataset=dict(T=T))
test_dataloader = dict(dataset=dict(T=T))
