# CIFAR10-DVS: 10 classes, 128x128, no official split (see mmsnn.CIFAR10DVS); where its files belong: README.md
_base_ = './event_frames.py'
dataset_type = 'mmsnn.CIFAR10DVS'
data_root = 'data/cifar10_dvs'
T = 10  # frames, so time steps of the network
data_preprocessor = dict(type='mmsnn.EventDataPreprocessor', num_classes=10)

train_pipeline = [
    dict(type='mmsnn.LoadEventFrames'),
    dict(type='mmsnn.EventResize', size=48),  # the papers' size
    dict(type='mmsnn.EventRandomFlip', prob=0.5),
    dict(type='mmsnn.EventRoll', shift=5),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='mmsnn.LoadEventFrames'),
    dict(type='mmsnn.EventResize', size=48),
    dict(type='PackInputs'),
]
data = dict(type=dataset_type, data_root=data_root, T=T)
train_dataloader = dict(dataset=dict(data, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data, pipeline=test_pipeline))
test_dataloader = val_dataloader
