# SAKD's recipe on CIFAR, for batches of 128 on one GPU
_base_ = 'mmpretrain::_base_/schedules/cifar10_bs128.py'
optim_wrapper = dict(optimizer=dict(weight_decay=5e-4, nesterov=True))
param_scheduler = dict(_delete_=True, type='CosineAnnealingLR', T_max=200, by_epoch=True)
train_cfg = dict(max_epochs=200)
