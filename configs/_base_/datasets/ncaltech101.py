# N-Caltech101: 101 folders, 180x240, no official split (see mmsnn.NCaltech101); where its files belong: README.md
_base_ = './event_frames.py'
dataset_type = 'mmsnn.NCaltech101'
data_root = 'data/ncaltech101'
T = 10  # frames, so time steps of the network
data_preprocessor = dict(type='mmsnn.EventDataPreprocessor', num_classes=101)

train_pipeline = [
    dict(type='mmsnn.LoadEventFrames'),
    dict(type='mmsnn.EventResize', size=48),  # the papers' size
    dict(type='mmsnn.NeuromorphicAugment', roll=3, rotate=15, shear=15),  # as in NDA's code for this set
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
