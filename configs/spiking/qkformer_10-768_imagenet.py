# QKFormer-10-768 on ImageNet by the recipe of the 10-384
_base_ = './qkformer_10-384_imagenet.py'
model = dict(backbone=dict(arch='10-768'), head=dict(in_channels=768))
