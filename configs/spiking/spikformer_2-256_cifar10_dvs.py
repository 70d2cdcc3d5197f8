# Spikformer-2-256 on CIFAR10-DVS (T=16, 128x128), by its release's recipe but for the augmentation, which is NDA's
_base_ = ['./spiking_r18_cifar10_dvs.py']
T = 16
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmsnn.Spikformer',
        # the release's attention has a larger scale here
        arch=dict(embed_dims=256, num_layers=2, num_heads=16, scale=0.25),
        in_channels=2,  # polarities
        T=T,
    ),
    head=dict(in_channels=256),
)
train_pipeline = [
    dict(type='mmsnn.LoadEventFrames'),
    dict(type='mmsnn.EventRandomFlip', prob=0.5),
    dict(type='mmsnn.NeuromorphicAugment', roll=13, rotate=30, shear=30),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='mmsnn.LoadEventFrames'), dict(type='PackInputs')]
train_dataloader = dict(batch_size=16, dataset=dict(T=T, pipeline=train_pipeline))
val_dataloader = dict(batch_size=16, dataset=dict(T=T, pipeline=test_pipeline))
test_dataloader = dict(batch_size=16, dataset=dict(T=T, pipeline=test_pipeline))
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.06))
param_scheduler = dict(_delete_=True, type='mmsnn.TimmCosineLR', T_max=96, eta_min=1e-5, warmup=10, warmup_start=1e-5)
train_cfg = dict(max_epochs=106)
auto_scale_lr = dict(base_batch_size=16)
