# Meta-SpikeFormer-15M on ImageNet by the recipe of the 55M
_base_ = './meta_spikeformer_55m_imagenet.py'
model = dict(backbone=dict(arch='15M'), head=dict(in_channels=360))
