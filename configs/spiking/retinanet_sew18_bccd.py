# the spiking twin of ann/retinanet_r18_bccd.py, undistilled
_base_ = '../ann/retinanet_r18_bccd.py'
model = dict(backbone=dict(type='mmsnn.SEWResNet', T=4, neuron=dict(type='LIF', tau=2.0, surrogate='atan')))
# less than a quarter of the teacher's: a gap is left for distillation to close
train_cfg = dict(max_epochs=14, val_interval=2)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=14)]
