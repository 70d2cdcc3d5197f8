# CIFAR10-DVS: 10 classes, 128x128, no official split (see mmsnn.CIFAR10DVS); where its files belong: README.md
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
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    collate_fn=dict(type='default_collate'),  # one tensor a batch from a worker, not one a sample
    dataset=dict(type=dataset_type, data_root=data_root, split='train', T=T, pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    collate_fn=dict(type='default_collate'),  # one tensor a batch from a worker, not one a sample
    dataset=dict(type=dataset_type, data_root=data_root, split='test', T=T, pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
