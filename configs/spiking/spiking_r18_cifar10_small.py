# the spiking twin of ann/r18_cifar10_small.py, undistilled
_base_ = ['../ann/r18_cifar10_small.py', '../_base_/neurons/sakd.py']
model = dict(
    backbone=dict(
        type='mmsnn.SpikingResNet',
        stem='cifar',
        T=4,
        neuron=_base_.neuron,
        joint_neuron=dict(detach_reset=True),  # SAKD: in the stem and after the additions only
    )
)
# half of the teacher's images: a spiking step costs several times as much
train_dataloader = dict(dataset=dict(indices=10000))
train_cfg = dict(max_epochs=5, val_interval=2)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=5)]
