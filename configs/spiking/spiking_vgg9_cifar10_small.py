# Spiking VGG-9 at a quarter of its width on a fifth of CIFAR-10, 5 epochs with the recipe of spiking_r20_cifar10.py
_base_ = ['../ann/r20_cifar10.py', '../_base_/neurons/sakd.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmsnn.SpikingVGG',
        depth=9,
        base_channels=16,
        T=4,
        neuron=_base_.neuron,
        out_indices=(3,),
    ),
    head=dict(in_channels=128),
)
train_dataloader = dict(dataset=dict(indices=10000))
train_cfg = dict(max_epochs=5, val_interval=5)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=5)]
