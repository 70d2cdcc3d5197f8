# ANN teacher of the fully spiking RetinaNet on BCCD: a norm and a ReLU wherever the student has a norm and a neuron
_base_ = './retinanet_r18_bccd.py'
model = dict(
    neck=dict(norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU')),
    bbox_head=dict(type='mmsnn.JointNormRetinaHead', norm_cfg=dict(type='BN')),
)
