# MS-ResNet-18 on ImageNet by its authors' recipe, for 4 GPUs x 64 images
_base_ = [
    'mmpretrain::_base_/models/resnet18.py',
    'mmpretrain::_base_/datasets/imagenet_bs64.py',
    '../_base_/neurons/ms_resnet.py',
    '../_base_/schedules/ms_resnet_imagenet.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
model = dict(
    backbone=dict(_base_.ms_backbone, T=6),
    head=dict(loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1)),
)
# AutoAugment takes the place of flips
train_pipeline = [*_base_.train_pipeline[:2], dict(type='AutoAugment', policies='imagenet'), _base_.train_pipeline[-1]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
