"""Hooks of mmengine's runner."""

from .distill_hook import DistillHook
from .time_folding_hook import TimeFoldingError, TimeFoldingHook, check_time_folding

__all__ = ['DistillHook', 'TimeFoldingError', 'TimeFoldingHook', 'check_time_folding']
