# FCN-R18 at a quarter of the width, for small data and two CPU cores; trained from scratch
_base_ = 'mmseg::_base_/models/fcn_r50-d8.py'
model = dict(
    pretrained=None,
    backbone=dict(
        type='ResNet',  # the plain stem, as the student's
        depth=18,
        base_channels=16,
        stem_channels=16,
        strides=(1, 2, 2, 1),  # stride 16 instead of 8: a third of the time
        dilations=(1, 1, 1, 2),
        norm_cfg=dict(type='BN'),  # SyncBN needs GPUs
        init_cfg=None,
    ),
    # a quarter of mmseg's width for ResNet-18
    decode_head=dict(in_channels=128, channels=32, num_convs=1, norm_cfg=dict(type='BN')),
    auxiliary_head=None,
)
