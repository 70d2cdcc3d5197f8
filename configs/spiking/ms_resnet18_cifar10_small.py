# MS-ResNet-18 on CIFAR-10 from JPEG files, a quarter as wide, for two CPU cores
_base_ = ['./spiking_r18_cifar10_small.py', '../_base_/neurons/ms_resnet.py']
model = dict(
    backbone=dict(
        type='mmsnn.MSResNet',
        neuron=_base_.ms_neuron,
        joint_neuron=None,  # no neuron follows an addition
        norm_cfg=_base_.ms_norm,
    )
)
