# Spikformer-4-384 on Tiny ImageNet with one pooling more than on CIFAR, so as many tokens, by the recipe of CIFAR
_base_ = [
    '../_base_/models/spikformer_cifar.py',
    '../_base_/datasets/tiny_imagenet.py',
    '../_base_/schedules/spikformer_cifar.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=384, num_layers=4, num_heads=12, pool=(False, True, True, True), qkv_bias=True
        )
    ),
    head=dict(num_classes=200),
)
