# the spiking twin of ann/fcn_r18_camvid.py, undistilled
_base_ = ['../ann/fcn_r18_camvid.py', '../_base_/neurons/sakd.py']
model = dict(backbone=dict(type='mmsnn.SEWResNet', T=4, neuron=_base_.neuron))
# half the teacher's: a spiking step costs several times as much
train_cfg = dict(max_epochs=10, val_interval=2)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=10)]
