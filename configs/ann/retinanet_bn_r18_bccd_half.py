# RetinaNet-R18 of half the width on BCCD, a norm and a ReLU wherever low_rate/spike_retinanet_sew18_bccd_half_t1_5.py
# has a norm and a neuron: its twin and teacher
_base_ = './retinanet_bn_r18_bccd.py'
model = dict(
    backbone=dict(base_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=128),
    bbox_head=dict(in_channels=128, feat_channels=128),
)
train_cfg = dict(max_epochs=30, val_interval=10)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=30)]
