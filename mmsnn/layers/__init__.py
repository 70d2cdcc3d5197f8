"""Modules that know about time, but are no neurons."""

from .coding import DirectEncoder, Readout
from .conv import SpikeConv2d
from .time import TimeAware, fold, get_time_steps, set_time_steps, unfold

__all__ = ['DirectEncoder', 'Readout', 'SpikeConv2d', 'TimeAware', 'fold', 'get_time_steps', 'set_time_steps', 'unfold']
