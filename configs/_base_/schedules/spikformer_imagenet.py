# AdamW as Spikformer, Spikingformer and BKD have it on ImageNet: 20 epochs of warm-up, cosine to epoch 300, 10 more
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py'
optim_wrapper = dict(type='AmpOptimWrapper', optimizer=dict(lr=5e-4))
param_scheduler = [dict(type='mmsnn.TimmCosineLR', T_max=300, eta_min=1e-5, warmup=20, warmup_start=1e-6)]
train_cfg = dict(max_epochs=310)
