# RetinaNet with QKFormer-10-384 on COCO: mmdet's 1x with AdamW (ours: the paper classifies only)
_base_ = './retinanet_meta_spikeformer_15m_coco.py'
model = dict(
    backbone=dict(_delete_=True, type='mmsnn.QKFormer', arch='10-384', T=4),
    # maps of stride 4, 8, 16; it makes strides 8 to 128 of them
    neck=dict(in_channels=[96, 192, 384]),
)
