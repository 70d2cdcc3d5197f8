# 15 epochs of SGD with cosine decay for CIFAR's ResNet-20 to 110, batches of 128; a longer training sets max_epochs and
# the cosine's T_max (methods.py --epochs)
_base_ = './small_classification.py'
train_cfg = dict(max_epochs=15, val_interval=1)  # a curve, for a tenth of the time
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', T_max=15, by_epoch=True, convert_to_iter_based=True),
]
