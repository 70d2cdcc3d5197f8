"""Fast parts: functions of tensors that know nothing of models."""

from . import reference
from .lif import bn_lif, lif

__all__ = ['bn_lif', 'lif', 'reference']
