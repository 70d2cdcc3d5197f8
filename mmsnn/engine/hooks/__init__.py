"""Hooks of mmengine's runner."""

from .channels_last_hook import ChannelsLastHook
from .distill_hook import DistillHook
from .firing_rate_hook import FiringRateHook
from .time_folding_hook import TimeFoldingError, TimeFoldingHook, check_time_folding

__all__ = [
    'ChannelsLastHook',
    'DistillHook',
    'FiringRateHook',
    'TimeFoldingError',
    'TimeFoldingHook',
    'check_time_folding',
]
