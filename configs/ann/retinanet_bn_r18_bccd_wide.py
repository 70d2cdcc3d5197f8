# RetinaNet-R18 of full width on BCCD, a norm and a ReLU wherever low_rate/spike_retinanet_sew18_bccd_wide_t1_5.py has a
# norm and a neuron: its twin and teacher
_base_ = './retinanet_bn_r18_bccd.py'
model = dict(
    backbone=dict(base_channels=64),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=256),
    bbox_head=dict(in_channels=256, feat_channels=256, stacked_convs=4),
)
train_cfg = dict(max_epochs=30, val_interval=10)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=30)]
optim_wrapper = dict(optimizer=dict(lr=1e-3))
