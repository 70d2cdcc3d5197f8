"""Spiking backbones, and spiking necks and heads."""

from mmsnn.checkpoints.loading import check_what_mmengine_loads

from .backbones.base import SpikingBackbone
from .backbones.cifar_resnet import CIFARResNet
from .backbones.meta_spikeformer import MetaSpikeFormer
from .backbones.ms_resnet import MSResNet
from .backbones.qkformer import QKFormer
from .backbones.resnet import SpikingResNet
from .backbones.resnet19 import ResNet19, SpikingResNet19
from .backbones.sew_resnet import SEWResNet
from .backbones.spikformer import Spikformer
from .backbones.spiking_vgg import SpikingVGG
from .backbones.spikingformer import Spikingformer
from .balance import balance_thresholds
from .data_preprocessor import EventDataPreprocessor
from .heads.spike_heads import JointNormRetinaHead, SpikeFPNHead, SpikeRetinaHead
from .heads.stacked_linear_head import SpikingStackedLinearClsHead
from .necks.spike_fpn import SpikeFPN
from .necks.spiking_pooling import SpikingPooling
from .resized import Resized
from .spikify import Spikify

check_what_mmengine_loads()

__all__ = [
    'CIFARResNet',
    'EventDataPreprocessor',
    'JointNormRetinaHead',
    'MSResNet',
    'MetaSpikeFormer',
    'QKFormer',
    'ResNet19',
    'Resized',
    'SEWResNet',
    'SpikeFPN',
    'SpikeFPNHead',
    'SpikeRetinaHead',
    'Spikformer',
    'Spikify',
    'SpikingBackbone',
    'SpikingPooling',
    'SpikingResNet',
    'SpikingResNet19',
    'SpikingStackedLinearClsHead',
    'SpikingVGG',
    'Spikingformer',
    'balance_thresholds',
]
