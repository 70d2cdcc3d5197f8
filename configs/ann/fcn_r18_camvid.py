# the teacher on CamVid: an FCN that two cores train in minutes
_base_ = [
    '../_base_/models/fcn_r18_small.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/small_segmentation.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
model = dict(
    data_preprocessor=dict(size=_base_.scale[::-1], seg_pad_val=_base_.void),
    decode_head=dict(num_classes=11, ignore_index=_base_.void),
)
train_cfg = dict(max_epochs=20, val_interval=5)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=20)]
log_processor = dict(by_epoch=True)  # mmseg counts iterations
