# Semantic FPN with Meta-SpikeFormer-31M on ADE20K
_base_ = './sem_fpn_meta_spikeformer_15m_ade20k.py'
model = dict(backbone=dict(arch='31M'), neck=dict(in_channels=[96, 192, 384, 480]))
