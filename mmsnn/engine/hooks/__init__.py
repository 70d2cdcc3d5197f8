"""Hooks of mmengine's runner."""

from .channels_last_hook import ChannelsLastHook
from .distill_hook import DistillHook
from .time_folding_hook import TimeFoldingError, TimeFoldingHook, check_time_folding

__all__ = ['ChannelsLastHook', 'DistillHook', 'TimeFoldingError', 'TimeFoldingHook', 'check_time_folding']
