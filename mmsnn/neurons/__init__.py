"""Spiking neurons, usable as any ``act_cfg``: ``dict(type='mmsnn.LIF', T=4)``."""

from .base import Neuron
from .build import build_neuron, neuron_config
from .firing import FiringRates, LayerFiring, SpikeCounter
from .ilif import ILIF, expand_levels, to_binary
from .lif import IF, LIF, PLIF
from .recording import record

__all__ = [
    'FiringRates',
    'IF',
    'ILIF',
    'LIF',
    'LayerFiring',
    'Neuron',
    'PLIF',
    'SpikeCounter',
    'build_neuron',
    'expand_levels',
    'neuron_config',
    'record',
    'to_binary',
]
