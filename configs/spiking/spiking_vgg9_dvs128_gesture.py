# Spiking VGG-9 on DVS128 Gesture, undistilled: the student of TSSD, with its neuron and recipe
_base_ = [
    '../_base_/models/spiking_vgg9.py',
    '../_base_/datasets/dvs128_gesture.py',
    '../_base_/schedules/tssd_event.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
T = 8
model = dict(backbone=dict(T=T), head=dict(num_classes=11))
# ours: as small as CIFAR10-DVS is made, so that the recipe's batches fit
train_pipeline = [
    dict(type='mmsnn.LoadEventFrames'),
    dict(type='mmsnn.EventResize', size=48),
    dict(type='mmsnn.EventRandomCrop', size=48, padding=4),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='mmsnn.LoadEventFrames'),
    dict(type='mmsnn.EventResize', size=48),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=64, dataset=dict(T=T, pipeline=train_pipeline))
val_dataloader = dict(batch_size=64, dataset=dict(T=T, pipeline=test_pipeline))
test_dataloader = dict(batch_size=64, dataset=dict(T=T, pipeline=test_pipeline))
