# Semantic FPN-R18 at a quarter of the width, for small data and two CPU cores; trained from scratch
_base_ = 'mmseg::_base_/models/fpn_r50.py'
model = dict(
    pretrained=None,
    backbone=dict(
        type='ResNet',  # the plain stem, as the student's
        depth=18,
        base_channels=16,
        stem_channels=16,
        norm_cfg=dict(type='BN'),  # SyncBN needs GPUs
        init_cfg=None,
    ),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=64),
    decode_head=dict(in_channels=[64, 64, 64, 64], channels=32, norm_cfg=dict(type='BN')),
)
