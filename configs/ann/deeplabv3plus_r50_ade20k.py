# DeepLabV3+-R50 on ADE20K, the teacher: mmseg's 80k recipe
_base_ = ['mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py', '../_base_/mmsnn.py']
model = dict(
    pretrained=None,
    backbone=dict(
        type='ResNet',  # the plain stem: torchvision has weights for it, and the student's is the same
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'),
    ),
)
auto_scale_lr = dict(base_batch_size=16)  # 4 GPUs x 4
