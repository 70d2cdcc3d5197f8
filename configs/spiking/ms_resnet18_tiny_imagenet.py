# MS-ResNet-18 on Tiny ImageNet with its authors' neuron and norm, by the recipe of CIFAR
_base_ = ['./spiking_r18_tiny_imagenet.py', '../_base_/neurons/ms_resnet.py']
model = dict(
    backbone=dict(
        type='mmsnn.MSResNet',
        neuron=_base_.ms_neuron,
        joint_neuron=None,  # no neuron follows an addition
        norm_cfg=_base_.ms_norm,
    )
)
