# Spikformer-4-384 on CIFAR-10 by its release's recipe
_base_ = './spikformer_4-256_cifar10.py'
model = dict(backbone=dict(arch='4-384'), head=dict(in_channels=384))
