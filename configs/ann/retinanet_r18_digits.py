# the teacher of the demo: a RetinaNet that a CPU trains in minutes
_base_ = [
    '../_base_/models/retinanet_r18_small.py',
    '../_base_/datasets/digits.py',
    '../_base_/schedules/small_detection.py',
    'mmdet::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
model = dict(
    # digits are 20 to 51 pixels high: the levels of strides 8, 16 and 32 suffice
    neck=dict(num_outs=3, norm_cfg=dict(type='BN')),
    bbox_head=dict(
        num_classes=10,
        norm_cfg=dict(type='GN', num_groups=8),  # learns several times faster than without a norm
        # smallest anchor 24 pixels; digits are upright, ratios are heights per width
        anchor_generator=dict(octave_base_scale=3, ratios=[1.0, 1.5, 2.2], strides=[8, 16, 32]),
    ),
)
train_cfg = dict(max_epochs=8, val_interval=8)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=8)]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
