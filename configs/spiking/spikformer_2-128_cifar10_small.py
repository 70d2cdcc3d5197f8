# Spikformer-2-128 on CIFAR-10, with images and epochs of spiking_vgg9_cifar10_small.py
_base_ = './spiking_vgg9_cifar10_small.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmsnn.Spikformer',
        # 16 tokens, as in spikformer_4-256_cifar10_small.py
        arch=dict(embed_dims=128, num_layers=2, num_heads=4, pool=(True, True, True, False)),
        T=4,
    ),
    head=dict(in_channels=128),
)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.06))
