# ANN teacher on Penn-Fudan's masks: Mask R-CNN-R18 at a quarter of the width
_base_ = [
    '../_base_/models/mask_rcnn_r18_small.py',
    '../_base_/datasets/penn_fudan_instances.py',
    '../_base_/schedules/small_detection.py',
    'mmdet::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
model = dict(roi_head=dict(bbox_head=dict(num_classes=1), mask_head=dict(num_classes=1)))
train_cfg = dict(max_epochs=60, val_interval=10)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=60)]
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=2))
