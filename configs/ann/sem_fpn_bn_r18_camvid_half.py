# Semantic FPN-R18 of half the width on CamVid, a norm and a ReLU wherever
# low_rate/spike_semfpn_sew18_camvid_half_t1_5.py has a norm and a neuron: its twin and teacher
_base_ = './sem_fpn_bn_r18_camvid.py'
model = dict(
    backbone=dict(base_channels=32, stem_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=128),
    decode_head=dict(in_channels=[128, 128, 128, 128], channels=64),
)
