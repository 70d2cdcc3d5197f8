# the fully spiking twin of ann/retinanet_bn_r18_bccd.py, undistilled: spikes up to the head's last convolutions
_base_ = '../ann/retinanet_bn_r18_bccd.py'
T = 4
neuron = dict(type='LIF', tau=2.0, surrogate='atan')
model = dict(
    backbone=dict(type='mmsnn.SEWResNet', T=T, neuron=neuron, readout='none'),
    neck=dict(type='mmsnn.SpikeFPN', T=T, neuron=neuron),
    bbox_head=dict(type='mmsnn.SpikeRetinaHead', T=T, neuron=neuron),
)
# as many as retinanet_sew18_bccd.py, whose backbone alone spikes
train_cfg = dict(max_epochs=14, val_interval=2)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=14)]
