# ResNet-18 on CIFAR-10, the teacher: by the student's recipe
_base_ = [
    'mmpretrain::_base_/models/resnet18_cifar.py',
    'mmpretrain::_base_/datasets/cifar10_bs16.py',
    '../_base_/schedules/sakd_cifar.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
train_dataloader = dict(batch_size=128)  # on one GPU; mmpretrain's 16 is for eight
val_dataloader = dict(batch_size=128)
test_dataloader = dict(batch_size=128)
