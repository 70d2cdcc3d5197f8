# SEW-ResNet's recipe on ImageNet (Fang et al., NeurIPS 2021), which BKD uses, too: no weight decay
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs256_coslr.py'
optim_wrapper = dict(
    _delete_=True, type='AmpOptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0)
)
param_scheduler = dict(T_max=320, end=320)
train_cfg = dict(max_epochs=320)
auto_scale_lr = dict(base_batch_size=256)  # 8 GPUs x 32
