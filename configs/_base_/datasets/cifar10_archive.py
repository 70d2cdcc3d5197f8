# CIFAR-10 from an archive of image files, decoded on first use into data/
_base_ = 'mmpretrain::_base_/datasets/cifar10_bs16.py'
archive = dict(type='mmsnn.CIFAR10Archive', data_root='{{$MMSNN_DATA_ROOT:../shared/data}}', ann_file='cifar10.tar.gz')
# One tensor a batch from a worker, not one an image
collate = dict(type='default_collate')
train_dataloader = dict(batch_size=64, num_workers=1, collate_fn=collate, dataset=archive)
val_dataloader = dict(batch_size=200, num_workers=1, collate_fn=collate, dataset=archive)
test_dataloader = val_dataloader
