# Spikformer as a classifier of CIFAR
_base_ = './spikformer_imagenet.py'
model = dict(
    backbone=dict(arch='4-384'),
    head=dict(num_classes=10, in_channels=384),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.5)]),
)
# the releases mix no images after epoch 200
custom_hooks = [dict(type='SwitchRecipeHook', schedule=[dict(action_epoch=201, batch_augments=None)])]
