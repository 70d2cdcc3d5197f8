# Spikformer-4-256 on CIFAR-10 by its release's recipe
_base_ = [
    '../_base_/models/spikformer_cifar.py',
    'mmpretrain::_base_/datasets/cifar10_bs16.py',
    '../_base_/datasets/spikformer_cifar.py',
    '../_base_/schedules/spikformer_cifar.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
model = dict(backbone=dict(arch='4-256'), head=dict(in_channels=256))
train_dataloader = dict(batch_size=128, dataset=dict(pipeline=_base_.cifar_pipeline))
val_dataloader = dict(batch_size=128)
test_dataloader = dict(batch_size=128)
