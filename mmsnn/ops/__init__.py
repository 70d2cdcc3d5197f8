"""Fast parts: functions of tensors that know nothing of models."""

from . import reference
from .lif import bn_lif, lif
from .surrogates import register_surrogate

__all__ = ['bn_lif', 'lif', 'reference', 'register_surrogate']
