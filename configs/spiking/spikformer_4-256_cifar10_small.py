# Spikformer-4-256 on CIFAR-10, the images and epochs of spiking_r18_cifar10_small.py, for two CPU cores
_base_ = './spiking_r18_cifar10_small.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmsnn.Spikformer',
        # poolings earlier than the release's: 16 tokens instead of 64, and 299 M MACs an image instead of 1653 M
        # (spiking_r18_cifar10_small.py: 35 M); no biases in front of the norms of q, k and v
        arch=dict(embed_dims=256, num_layers=4, num_heads=8, pool=(True, True, True, False)),
        T=4,
    ),
    head=dict(in_channels=256),
)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.06))
