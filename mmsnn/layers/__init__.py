"""Layers of spiking networks other than neurons: encoders, readouts, norms, convolutions, attention."""

from .attention import SpikingSelfAttention, TokenQKAttention, spiking_attention
from .coding import DirectEncoder, PoissonEncoder, Readout, read_short, short_and_full
from .conv import SpikeConv2d
from .norm import TDBN, TEBN
from .probing import blank_image, evaluating, image_channels
from .time import TimeAware, TimeFoldingError, fold, get_time_steps, set_time_steps, time_folded, unfold

__all__ = [
    'DirectEncoder',
    'PoissonEncoder',
    'Readout',
    'SpikeConv2d',
    'SpikingSelfAttention',
    'TDBN',
    'TEBN',
    'TimeAware',
    'TimeFoldingError',
    'TokenQKAttention',
    'blank_image',
    'evaluating',
    'fold',
    'get_time_steps',
    'image_channels',
    'read_short',
    'set_time_steps',
    'spiking_attention',
    'time_folded',
    'unfold',
    'short_and_full',
]
