"""Modules that know about time, but are no neurons."""

from .coding import DirectEncoder, Readout
from .time import TimeAware, fold, get_time_steps, set_time_steps, unfold

__all__ = ['DirectEncoder', 'Readout', 'TimeAware', 'fold', 'get_time_steps', 'set_time_steps', 'unfold']
