# RetinaNet-R34 on COCO, the teacher of the fully spiking one: a norm and a ReLU wherever that has a norm and a neuron
_base_ = './retinanet_r34_coco.py'
model = dict(
    neck=dict(norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU')),
    bbox_head=dict(type='mmsnn.JointNormRetinaHead', norm_cfg=dict(type='BN')),
)
