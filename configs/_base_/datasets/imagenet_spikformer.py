# ImageNet as Spikformer and Spikingformer load it: mmpretrain's augmentation for Swin, but whole images in training and
# testing, and erased parts in the mean colour
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'
train_pipeline = [
    _base_.train_pipeline[0],
    dict(_base_.train_pipeline[1], crop_ratio_range=(1.0, 1.0)),
    *_base_.train_pipeline[2:4],
    dict(_base_.train_pipeline[4], mode='const'),
    _base_.train_pipeline[5],
]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(_base_.test_pipeline[1], scale=224),
    *_base_.test_pipeline[2:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
