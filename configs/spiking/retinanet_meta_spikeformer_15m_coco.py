# RetinaNet with Meta-SpikeFormer-15M on COCO: mmdet's 1x with AdamW (ours)
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/mmsnn.py']
model = dict(
    backbone=dict(_delete_=True, type='mmsnn.MetaSpikeFormer', arch='15M', T=4, last_stride=2),
    neck=dict(in_channels=[64, 128, 256, 360]),
)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=0.05))
