# Spikingformer-4-384 with CML on CIFAR-100, BKD's student and recipe: batches of 64, 400 epochs
_base_ = './spikformer_4-384_cifar100.py'
model = dict(backbone=dict(type='mmsnn.Spikingformer', num_heads=8, cml=True))
train_dataloader = dict(batch_size=64)
param_scheduler = [dict(_base_.param_scheduler[0], T_max=400)]
train_cfg = dict(max_epochs=410)
auto_scale_lr = dict(base_batch_size=64)
