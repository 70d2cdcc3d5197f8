# Semantic FPN-R34 on ADE20K, the teacher: mmseg's 160k recipe
_base_ = ['mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py', '../_base_/mmsnn.py']
model = dict(
    pretrained=None,
    backbone=dict(
        type='ResNet',  # the plain stem: torchvision has weights for it, and the student's is the same
        depth=34,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet34'),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
auto_scale_lr = dict(base_batch_size=16)  # 4 GPUs x 4
