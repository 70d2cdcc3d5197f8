# The fully spiking RetinaNet of full width on BCCD: one time step, 5 % of neurons fire, SAKD from its ANN twin
_base_ = './spike_retinanet_sew18_bccd_5.py'
model = dict(
    student=dict(
        backbone=dict(T=1, base_channels=64),
        neck=dict(T=1, in_channels=[64, 128, 256, 512], out_channels=256),
        bbox_head=dict(T=1, in_channels=256, feat_channels=256, stacked_convs=4),
    ),
    teacher='mmsnn::ann/retinanet_bn_r18_bccd_wide.py',
    teacher_checkpoint='work_dirs/retinanet_bn_r18_bccd_wide/epoch_30.pth',
)
train_cfg = dict(max_epochs=30, val_interval=10)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=30)]
optim_wrapper = dict(optimizer=dict(lr=1e-3))
