# FCN-R34 on ADE20K, the teacher: mmseg's 80k recipe
_base_ = ['mmseg::fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py', '../_base_/mmsnn.py']
model = dict(
    pretrained=None,
    backbone=dict(
        type='ResNet',  # the plain stem: torchvision has weights for it, and the student's is the same
        depth=34,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet34'),
    ),
    # mmseg's widths for basic blocks
    decode_head=dict(in_channels=512, channels=128),
    auxiliary_head=dict(in_channels=256, channels=64),
)
auto_scale_lr = dict(base_batch_size=16)  # 4 GPUs x 4
