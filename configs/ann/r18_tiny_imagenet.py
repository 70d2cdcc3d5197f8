# ResNet-18 on Tiny ImageNet, the teacher: by the student's recipe
_base_ = [
    'mmpretrain::_base_/models/resnet18_cifar.py',
    '../_base_/datasets/tiny_imagenet.py',
    '../_base_/schedules/sakd_cifar.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
model = dict(head=dict(num_classes=200, topk=(1, 5)))
