# The fully spiking RetinaNet of half the width on BCCD: one time step, 5 % of neurons fire, SAKD from its ANN twin
_base_ = './spike_retinanet_sew18_bccd_5.py'
model = dict(
    student=dict(
        backbone=dict(T=1, base_channels=32),
        neck=dict(T=1, in_channels=[32, 64, 128, 256], out_channels=128),
        bbox_head=dict(T=1, in_channels=128, feat_channels=128),
    ),
    teacher='mmsnn::ann/retinanet_bn_r18_bccd_half.py',
    teacher_checkpoint='work_dirs/retinanet_bn_r18_bccd_half/epoch_30.pth',
)
train_cfg = dict(max_epochs=30, val_interval=10)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=30)]
