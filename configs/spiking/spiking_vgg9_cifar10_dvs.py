# Spiking VGG-9 on CIFAR10-DVS, undistilled: the student of TSSD, with its neuron and recipe
_base_ = [
    '../_base_/datasets/cifar10_dvs.py',
    '../_base_/schedules/tssd_event.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
T = 5
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
    head=dict(type='LinearClsHead', num_classes=10, in_channels=512, loss=dict(type='CrossEntropyLoss')),
)
train_dataloader = dict(dataset=dict(T=T))
val_dataloader = dict(dataset=dict(T=T))
test_dataloader = dict(dataset=dict(T=T))
