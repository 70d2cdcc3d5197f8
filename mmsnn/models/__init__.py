"""Spiking backbones."""

from .resnet import SpikingResNet
from .sew_resnet import SEWResNet
from .spikify import Spikify

__all__ = ['SEWResNet', 'SpikingResNet', 'Spikify']
