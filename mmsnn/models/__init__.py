"""Spiking backbones, and spiking necks and heads."""

from mmsnn.checkpoints.loading import check_what_mmengine_loads

from .backbone import SpikingBackbone
from .balance import balance_thresholds
from .cifar_resnet import CIFARResNet
from .data_preprocessor import EventDataPreprocessor
from .meta_spikeformer import MetaSpikeFormer, SpikingPooling
from .ms_resnet import MSResNet
from .qkformer import QKFormer
from .resized import Resized
from .resnet import SpikingResNet
from .resnet19 import ResNet19, SpikingResNet19, SpikingStackedLinearClsHead
from .sew_resnet import SEWResNet
from .spike_fpn import SpikeFPN
from .spike_heads import JointNormRetinaHead, SpikeFPNHead, SpikeRetinaHead
from .spikformer import Spikformer
from .spikify import Spikify
from .spiking_vgg import SpikingVGG
from .spikingformer import Spikingformer

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
