# Semantic FPN with Meta-SpikeFormer-15M on ADE20K: mmseg's 160k with AdamW (ours)
_base_ = ['mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py', '../_base_/mmsnn.py']
model = dict(
    pretrained=None,
    backbone=dict(_delete_=True, type='mmsnn.MetaSpikeFormer', arch='15M', T=4, last_stride=2),
    neck=dict(in_channels=[64, 128, 256, 360]),
)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=0.05))
auto_scale_lr = dict(base_batch_size=16)  # 4 GPUs x 4
