# Spikformer-4-384 on CIFAR-100 by its release's recipe for CIFAR-10
_base_ = [
    '../_base_/models/spikformer_cifar.py',
    'mmpretrain::_base_/datasets/cifar100_bs16.py',
    '../_base_/datasets/spikformer_cifar.py',
    '../_base_/schedules/spikformer_cifar.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
model = dict(head=dict(num_classes=100))
train_dataloader = dict(batch_size=128, dataset=dict(pipeline=_base_.cifar_pipeline))
val_dataloader = dict(batch_size=128)
test_dataloader = dict(batch_size=128)
