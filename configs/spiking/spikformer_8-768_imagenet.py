# Spikformer-8-768 on ImageNet by its release's recipe, 8 GPUs x 24 images
_base_ = [
    '../_base_/models/spikformer_imagenet.py',
    '../_base_/datasets/imagenet_spikformer.py',
    '../_base_/schedules/spikformer_imagenet.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/mmsnn.py',
]
train_dataloader = dict(batch_size=24)
auto_scale_lr = dict(base_batch_size=192)
