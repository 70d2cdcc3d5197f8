# The fully spiking Semantic FPN of half the width on CamVid: one time step, 5 % of neurons fire, SAKD from its ANN twin
_base_ = '../sakd/spike_semfpn_sew18_camvid.py'
model = dict(
    student=dict(
        backbone=dict(T=1, base_channels=32, stem_channels=32),
        neck=dict(T=1, in_channels=[32, 64, 128, 256], out_channels=128),
        decode_head=dict(T=1, in_channels=[128, 128, 128, 128], channels=64),
    ),
    teacher='mmsnn::ann/sem_fpn_bn_r18_camvid_half.py',
    teacher_checkpoint='work_dirs/sem_fpn_bn_r18_camvid_half/epoch_20.pth',
    losses=dict(
        loss_rate=dict(
            type='FiringRate',
            rate=0.05,
            # ours, not tuned; from 0, so that the network learns before it is told to be quiet
            weight=dict(kind='linear', values=[0.0, 1.0], milestones=[0, 5], by='epoch'),
        )
    ),
)
# gradients explode in batch norms behind layers that fall silent
optim_wrapper = dict(clip_grad=dict(max_norm=1))
train_cfg = dict(max_epochs=20, val_interval=5)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=20)]
