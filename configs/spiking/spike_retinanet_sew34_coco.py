# RetinaNet on COCO whose backbone (SEW-ResNet-34), neck and head spike, undistilled
_base_ = ['../ann/retinanet_bn_r34_coco.py', '../_base_/neurons/sakd.py']
T = 4
model = dict(
    backbone=dict(
        type='mmsnn.SEWResNet',
        T=T,
        neuron=_base_.neuron,
        readout='none',  # neck and head go on in spikes
        frozen_stages=-1,  # from scratch: an ANN's statistics do not describe spikes
        norm_eval=False,
        init_cfg=None,
    ),
    neck=dict(type='mmsnn.SpikeFPN', T=T, neuron=_base_.neuron),
    bbox_head=dict(type='mmsnn.SpikeRetinaHead', T=T, neuron=_base_.neuron),
)
