# Spikformer-8-384 on ImageNet by the recipe of the 8-768
_base_ = './spikformer_8-768_imagenet.py'
model = dict(backbone=dict(arch='8-384'), head=dict(in_channels=384))
