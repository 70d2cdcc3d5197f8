# the fully spiking twin of ann/sem_fpn_bn_r18_camvid.py, undistilled: spikes up to the last convolution
_base_ = ['../ann/sem_fpn_bn_r18_camvid.py', '../_base_/neurons/sakd.py']
T = 4
model = dict(
    backbone=dict(type='mmsnn.SEWResNet', T=T, neuron=_base_.neuron, readout='none'),
    neck=dict(type='mmsnn.SpikeFPN', T=T, neuron=_base_.neuron),
    decode_head=dict(type='mmsnn.SpikeFPNHead', T=T, neuron=_base_.neuron),
)
# half the teacher's: a spiking step costs several times as much
train_cfg = dict(max_epochs=10, val_interval=2)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=10)]
