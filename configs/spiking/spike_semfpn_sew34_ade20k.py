# Semantic FPN on ADE20K whose backbone (SEW-ResNet-34), neck and head spike, undistilled
_base_ = ['../ann/sem_fpn_bn_r34_ade20k.py', '../_base_/neurons/sakd.py']
T = 4
model = dict(
    backbone=dict(
        type='mmsnn.SEWResNet',
        T=T,
        neuron=_base_.neuron,
        readout='none',  # neck and head go on in spikes
        init_cfg=None,  # from scratch: an ANN's statistics do not describe spikes
    ),
    neck=dict(type='mmsnn.SpikeFPN', T=T, neuron=_base_.neuron),
    decode_head=dict(type='mmsnn.SpikeFPNHead', T=T, neuron=_base_.neuron),
)
