"""Fast parts: functions of tensors that know nothing of models."""

from . import reference
from .lif import lif

__all__ = ['lif', 'reference']
