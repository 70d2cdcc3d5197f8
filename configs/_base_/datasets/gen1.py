# Gen1 automotive detection: cars and pedestrians, 240x304; where its files belong: README.md
dataset_type = 'mmsnn.Gen1'
data_root = 'data/gen1'
T = 5  # frames, so time steps of the network
duration = 100_000  # microseconds before a label, all frames together; both as in Cordone et al., IJCNN 2022

train_pipeline = [
    dict(type='mmsnn.LoadEventWindow', T=T, duration=duration),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='mmsnn.EventRandomFlip', prob=0.5),
    dict(type='mmsnn.PackEventDetInputs'),
]
test_pipeline = [
    dict(type='mmsnn.LoadEventWindow', T=T, duration=duration),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='mmsnn.PackEventDetInputs'),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type=dataset_type, data_root=data_root, split='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type=dataset_type, data_root=data_root, split='val', test_mode=True, pipeline=test_pipeline),
)
test_dataloader = dict(val_dataloader, dataset=dict(val_dataloader['dataset'], split='test'))
val_evaluator = dict(type='CocoMetric', metric='bbox')  # no ann_file: annotations come with the samples
test_evaluator = val_evaluator
