# Semantic FPN-R34 on ADE20K, the teacher of the fully spiking one: a norm and a ReLU in the neck, too
_base_ = './sem_fpn_r34_ade20k.py'
model = dict(neck=dict(norm_cfg=dict(type='SyncBN', requires_grad=True), act_cfg=dict(type='ReLU')))
