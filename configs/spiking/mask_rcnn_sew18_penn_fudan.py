# the spiking twin of ann/mask_rcnn_r18_penn_fudan.py, undistilled
_base_ = '../ann/mask_rcnn_r18_penn_fudan.py'
model = dict(backbone=dict(type='mmsnn.SEWResNet', T=4, neuron=dict(type='LIF', tau=2.0, surrogate='atan')))
# as on BCCD less than the teacher's: a gap is left for distillation to close
train_cfg = dict(max_epochs=20, val_interval=5)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=20)]
