# Spikingformer-8-512 with CML on ImageNet, BKD's student and recipe, 4 GPUs x 34 images
_base_ = './spikingformer_8-768_imagenet.py'
model = dict(backbone=dict(arch='8-512'), head=dict(in_channels=512))
train_dataloader = dict(batch_size=34)
optim_wrapper = dict(optimizer=dict(lr=4.2e-4))
auto_scale_lr = dict(base_batch_size=136)
