# Spikingformer-8-768 with CML on ImageNet, BKD's student and recipe, 4 GPUs x 24 images
_base_ = './spikformer_8-768_imagenet.py'
model = dict(backbone=dict(type='mmsnn.Spikingformer', cml=True))
optim_wrapper = dict(optimizer=dict(lr=3.5e-4))
auto_scale_lr = dict(base_batch_size=96)
