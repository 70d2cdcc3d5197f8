# FCN with SEW-ResNet-34 on ADE20K, undistilled
_base_ = ['../ann/fcn_r34_ade20k.py', '../_base_/neurons/sakd.py']
model = dict(
    backbone=dict(
        type='mmsnn.SEWResNet',
        T=4,
        neuron=_base_.neuron,
        init_cfg=None,  # from scratch: an ANN's statistics do not describe spikes
    )
)
