# MS-ResNet's recipe on ImageNet, as in the authors' code
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs256_coslr.py'
optim_wrapper = dict(type='AmpOptimWrapper', optimizer=dict(weight_decay=1e-5))
param_scheduler = dict(T_max=125, end=125)
train_cfg = dict(max_epochs=125)
