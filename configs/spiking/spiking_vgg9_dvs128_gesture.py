# Spiking VGG-9 on DVS128 Gesture, undistilled: the student of TSSD, with its neuron and recipe
_base_ = [
    '../_base_/datasets/dvs128_gesture.py',
    '../_base_/schedules/tssd_event.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
T = 8
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmsnn.SpikingVGG',
        depth=9,
        pool='avg',
        in_channels=2,  # polarities
        out_indices=(3,),
        T=T,
        # soft reset
        neuron=dict(type='LIF', tau=2.0, decay_input=False, v_reset=None, surrogate='rectangle'),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=11, in_channels=512, loss=dict(type='CrossEntropyLoss')),
)
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
