# ResNet-18 of full width on CIFAR-10, 15 epochs: the twin of low_rate/spiking_r18_cifar10_t1_5.py
_base_ = ['./r20_cifar10.py']
model = dict(
    backbone=dict(_delete_=True, type='ResNet_CIFAR', depth=18),
    head=dict(in_channels=512),
)
