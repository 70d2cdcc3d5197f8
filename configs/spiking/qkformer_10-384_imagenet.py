# QKFormer-10-384 on ImageNet by its release's recipe: 512 images, on 8 GPUs x 64 (there 32, twice)
_base_ = './meta_spikeformer_55m_imagenet.py'
model = dict(
    backbone=dict(_delete_=True, type='mmsnn.QKFormer', arch='10-384', T=4, out_indices=-1),
    neck=dict(_delete_=True, type='GlobalAveragePooling'),
    head=dict(in_channels=384),
)
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=1.2e-3))  # 6e-4 for 256 images
param_scheduler = [
    dict(_base_.param_scheduler[0], end=5),
    dict(_base_.param_scheduler[1], begin=5),
]
auto_scale_lr = dict(base_batch_size=512)
