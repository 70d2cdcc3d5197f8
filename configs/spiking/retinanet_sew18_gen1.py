# RetinaNet with SEW-ResNet-18 on Gen1, undistilled; the optimizer's settings and the epochs are those of Cordone et al.
# (IJCNN 2022), whose detector is another
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/datasets/gen1.py',
    '../_base_/neurons/sakd.py',
    '../_base_/schedules/small_detection.py',
    'mmdet::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
model = dict(
    data_preprocessor=dict(_delete_=True, type='mmsnn.EventDataPreprocessor', pad_size_divisor=32),
    backbone=dict(
        type='mmsnn.SEWResNet',
        depth=18,
        in_channels=2,  # polarities
        T=_base_.T,
        neuron=_base_.neuron,
        frozen_stages=-1,  # from scratch
        norm_eval=False,
        init_cfg=None,
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
    bbox_head=dict(
        num_classes=2,
        anchor_generator=dict(octave_base_scale=2),  # boxes from 10 pixels on: half of COCO's sizes
    ),
)
train_cfg = dict(max_epochs=50)
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=1e-4), clip_grad=dict(max_norm=1))
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=50, eta_min=1e-5)]
