# AdamW as Spikformer and Spikingformer have it on CIFAR, for batches of 128 (64) on one GPU; Spikingformer to epoch 400
_base_ = './spikformer_imagenet.py'
optim_wrapper = dict(optimizer=dict(weight_decay=0.06))
param_scheduler = [dict(type='mmsnn.TimmCosineLR', T_max=300, eta_min=1e-5, warmup=20, warmup_start=1e-5)]
auto_scale_lr = dict(base_batch_size=128)
