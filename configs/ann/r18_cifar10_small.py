# the teacher on CIFAR-10: ResNet-18 at a quarter of the width, its first stage at half the size, for
# two CPU cores
_base_ = [
    'mmpretrain::_base_/models/resnet18_cifar.py',
    '../_base_/datasets/cifar10_archive.py',
    '../_base_/schedules/small_classification.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
model = dict(backbone=dict(base_channels=16, stem_channels=16, strides=(2, 2, 2, 2)), head=dict(in_channels=128))
train_dataloader = dict(dataset=dict(indices=20000))  # 40 % of the images: minutes
train_cfg = dict(max_epochs=12, val_interval=4)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=12)]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
