# the spiking twin of ann/retinanet_r18_digits.py, undistilled
_base_ = '../ann/retinanet_r18_digits.py'
model = dict(backbone=dict(type='mmsnn.SEWResNet', T=4, neuron=dict(type='LIF', tau=2.0, surrogate='atan')))
# half the teacher's: a spiking step costs twice as much
train_cfg = dict(max_epochs=4, val_interval=4)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=4)]
