# ViT-S on CIFAR-100, the teacher: images enlarged to 224, from mmpretrain's DeiT-S (the paper's began on ImageNet-21k);
# learning rate and epochs are ours
_base_ = [
    'mmpretrain::_base_/datasets/cifar100_bs16.py',
    '../_base_/datasets/spikformer_cifar.py',
    '../_base_/schedules/spikformer_cifar.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
deit = 'https://mmassets.onedl.ai/mmclassification/v0/deit/deit-small_pt-4xb256_in1k_20220218-9425b9bb.pth'
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmsnn.Resized',
        size=224,
        backbone=dict(type='mmpretrain.VisionTransformer', arch='deit-small', img_size=224, patch_size=16),
        init_cfg=dict(type='Pretrained', checkpoint=deit, prefix='backbone'),
    ),
    neck=None,
    head=dict(
        type='VisionTransformerClsHead',
        num_classes=100,
        in_channels=384,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.5)]),
)
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=_base_.cifar_pipeline))
val_dataloader = dict(batch_size=128)
test_dataloader = dict(batch_size=128)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
param_scheduler = [dict(_base_.param_scheduler[0], T_max=50, warmup=5, warmup_start=2e-6)]
train_cfg = dict(max_epochs=50)
auto_scale_lr = dict(base_batch_size=64)
