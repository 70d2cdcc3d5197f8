# DeepLabV3+ with SEW-ResNet-50 on ADE20K, undistilled
_base_ = ['../ann/deeplabv3plus_r50_ade20k.py', '../_base_/neurons/sakd.py']
model = dict(
    backbone=dict(
        type='mmsnn.SEWResNet',
        T=4,
        neuron=_base_.neuron,
        init_cfg=None,  # from scratch: an ANN's statistics do not describe spikes
    )
)
