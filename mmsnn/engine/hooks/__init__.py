"""Hooks of mmengine's runner."""

from .channels_last_hook import ChannelsLastHook
from .checkpoint_hook import SafeCheckpointHook
from .distill_hook import DistillHook
from .finite_hook import FiniteHook, NonFiniteError
from .firing_rate_hook import FiringRateHook
from .interrupt_hook import InterruptHook
from .time_folding_hook import TimeFoldingError, TimeFoldingHook, check_time_folding

__all__ = [
    'ChannelsLastHook',
    'DistillHook',
    'FiniteHook',
    'FiringRateHook',
    'InterruptHook',
    'NonFiniteError',
    'SafeCheckpointHook',
    'TimeFoldingError',
    'TimeFoldingHook',
    'check_time_folding',
]
