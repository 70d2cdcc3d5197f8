# SAKD's recipe on ImageNet
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs256_coslr.py'
optim_wrapper = dict(
    _delete_=True,
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=5e-3),
)
param_scheduler = dict(T_max=120, end=120)
train_cfg = dict(max_epochs=120)
auto_scale_lr = dict(base_batch_size=512)  # 8 GPUs x 64
