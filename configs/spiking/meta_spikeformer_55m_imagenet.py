# Meta-SpikeFormer-55M on ImageNet by its release's recipe for one time step, 8 GPUs x 128 images, but at T=4
_base_ = [
    '../_base_/models/spikformer_imagenet.py',
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
model = dict(
    backbone=dict(type='mmsnn.MetaSpikeFormer', arch='55M', out_indices=(4,), readout='none'),
    neck=dict(_delete_=True, type='mmsnn.SpikingPooling', T=4),  # the release fires once more before it classifies
    head=dict(in_channels=640),
    train_cfg=dict(_delete_=True),  # nothing is mixed
)
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(type='AmpOptimWrapper', optimizer=dict(lr=2.4e-3))  # 6e-4 for 256 images
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=10, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=10, end=200, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=200)
