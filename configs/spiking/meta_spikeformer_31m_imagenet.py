# Meta-SpikeFormer-31M on ImageNet by the recipe of the 55M
_base_ = './meta_spikeformer_55m_imagenet.py'
model = dict(backbone=dict(arch='31M'), head=dict(in_channels=480))
