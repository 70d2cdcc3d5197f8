# DVS128 Gesture: 11 classes, 128x128, its official split by persons; where its files belong: README.md
_base_ = './event_frames.py'
dataset_type = 'mmsnn.DVS128Gesture'
data_root = 'data/dvs128_gesture'
T = 16  # frames, so time steps of the network
data_preprocessor = dict(type='mmsnn.EventDataPreprocessor', num_classes=11)

# no flips: the left hand and the right hand are classes of their own
train_pipeline = [
    dict(type='mmsnn.LoadEventFrames'),
    dict(type='mmsnn.EventRandomCrop', size=128, padding=4),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='mmsnn.LoadEventFrames'), dict(type='PackInputs')]
data = dict(type=dataset_type, data_root=data_root, T=T)
train_dataloader = dict(batch_size=16, dataset=dict(data, pipeline=train_pipeline))
val_dataloader = dict(batch_size=16, dataset=dict(data, pipeline=test_pipeline))
test_dataloader = val_dataloader
