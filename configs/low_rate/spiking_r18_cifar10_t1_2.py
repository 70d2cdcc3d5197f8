# As spiking_r18_cifar10_t1_5.py, at 2 %
_base_ = './spiking_r18_cifar10_t1_5.py'
model = dict(losses=dict(loss_rate=dict(rate=0.02)))
