"""Modules that know about time, but are no neurons."""

from .coding import DirectEncoder, PoissonEncoder, Readout, read_prefix, with_prefix
from .conv import SpikeConv2d
from .norm import TDBN, TEBN
from .time import TimeAware, fold, get_time_steps, set_time_steps, unfold

__all__ = [
    'DirectEncoder',
    'PoissonEncoder',
    'Readout',
    'SpikeConv2d',
    'TDBN',
    'TEBN',
    'TimeAware',
    'fold',
    'get_time_steps',
    'read_prefix',
    'set_time_steps',
    'unfold',
    'with_prefix',
]
