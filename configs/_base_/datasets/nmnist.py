# N-MNIST: 10 digits, 34x34, its official split; where its files belong: README.md
dataset_type = 'mmsnn.NMNIST'
data_root = 'data/n_mnist'
T = 4  # frames, so time steps of the network
data_preprocessor = dict(type='mmsnn.EventDataPreprocessor', num_classes=10)

# no flips: mirrored digits are none
train_pipeline = [
    dict(type='mmsnn.LoadEventFrames'),
    dict(type='mmsnn.EventRandomCrop', size=34, padding=2),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='mmsnn.LoadEventFrames'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    collate_fn=dict(type='default_collate'),  # one tensor a batch from a worker, not one a sample
    dataset=dict(type=dataset_type, data_root=data_root, split='train', T=T, pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=2,
    collate_fn=dict(type='default_collate'),  # one tensor a batch from a worker, not one a sample
    dataset=dict(type=dataset_type, data_root=data_root, split='test', T=T, pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
