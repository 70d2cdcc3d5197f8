# Spikingformer-8-384 with CML on ImageNet, BKD's student and recipe, 4 GPUs x 48 images
_base_ = './spikingformer_8-768_imagenet.py'
model = dict(backbone=dict(arch='8-384'), head=dict(in_channels=384))
train_dataloader = dict(batch_size=48)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
auto_scale_lr = dict(base_batch_size=192)
