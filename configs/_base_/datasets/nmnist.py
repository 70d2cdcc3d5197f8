# N-MNIST: 10 digits, 34x34, its official split; where its files belong: README.md
_base_ = './event_frames.py'
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
data = dict(type=dataset_type, data_root=data_root, T=T)
train_dataloader = dict(num_workers=2, dataset=dict(data, pipeline=train_pipeline))
val_dataloader = dict(num_workers=2, dataset=dict(data, pipeline=test_pipeline))
test_dataloader = val_dataloader
