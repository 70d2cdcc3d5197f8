# DVS128 Gesture: 11 classes, 128x128, its official split by persons; where its files belong: README.md
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
train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    collate_fn=dict(type='default_collate'),  # one tensor a batch from a worker, not one a sample
    dataset=dict(type=dataset_type, data_root=data_root, split='train', T=T, pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=4,
    collate_fn=dict(type='default_collate'),  # one tensor a batch from a worker, not one a sample
    dataset=dict(type=dataset_type, data_root=data_root, split='test', T=T, pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
