# ANN teacher of the fully spiking Semantic FPN on CamVid: a norm and a ReLU wherever that has a norm and a neuron
_base_ = [
    '../_base_/models/sem_fpn_r18_small.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/small_segmentation.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
model = dict(
    data_preprocessor=dict(size=_base_.scale[::-1], seg_pad_val=_base_.void),
    neck=dict(norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU')),
    decode_head=dict(num_classes=11, ignore_index=_base_.void),
)
train_cfg = dict(max_epochs=20, val_interval=5)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=20)]
log_processor = dict(by_epoch=True)  # mmseg counts iterations
