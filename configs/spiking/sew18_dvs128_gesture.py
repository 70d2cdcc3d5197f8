# SEW-ResNet-18 on DVS128 Gesture with SAKD's neuron, undistilled
_base_ = [
    'mmpretrain::_base_/models/resnet18.py',
    '../_base_/datasets/dvs128_gesture.py',
    '../_base_/neurons/sakd.py',
    '../_base_/schedules/tssd_event.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
model = dict(
    backbone=dict(
        type='mmsnn.SEWResNet',
        in_channels=2,  # polarities
        T=_base_.T,
        neuron=_base_.neuron,
    ),
    head=dict(num_classes=11, topk=(1,)),
)
optim_wrapper = dict(optimizer=dict(lr=0.025))  # batches of 16 instead of 64: 16 frames of 128x128
auto_scale_lr = dict(base_batch_size=16)
