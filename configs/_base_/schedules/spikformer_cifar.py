# AdamW as Spikformer and Spikingformer have it on CIFAR, for batches of 128 (64) on one GPU; Spikingformer to epoch 400
_base_ = './spikformer_imagenet.py'
optim_wrapper = dict(optimizer=dict(weight_decay=0.06))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=True, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=20, end=300),
]
auto_scale_lr = dict(base_batch_size=128)
