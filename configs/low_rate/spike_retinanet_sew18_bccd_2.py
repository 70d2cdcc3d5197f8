# SAKD on BCCD with a fully spiking student that fires at 2 %
_base_ = './spike_retinanet_sew18_bccd_5.py'
model = dict(losses=dict(loss_rate=dict(rate=0.02)))
