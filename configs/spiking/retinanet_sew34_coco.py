# RetinaNet with SEW-ResNet-34 on COCO, undistilled
_base_ = ['../ann/retinanet_r34_coco.py', '../_base_/neurons/sakd.py']
model = dict(
    backbone=dict(
        type='mmsnn.SEWResNet',
        T=4,
        neuron=_base_.neuron,
        frozen_stages=-1,  # from scratch: an ANN's statistics do not describe spikes
        norm_eval=False,
        init_cfg=None,
    )
)
