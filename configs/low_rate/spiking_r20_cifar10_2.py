# SAKD on CIFAR-10 with a student that fires at 2 %
_base_ = './spiking_r20_cifar10_5.py'
model = dict(losses=dict(loss_rate=dict(rate=0.02)))
