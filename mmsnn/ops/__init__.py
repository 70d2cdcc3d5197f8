"""Fast parts: functions of tensors that know nothing of models."""

from . import reference
from .bn_lif import bn_lif
from .event import event_conv
from .lif import lif
from .neuron import NeuronSettings
from .surrogates import register_surrogate

__all__ = ['NeuronSettings', 'bn_lif', 'event_conv', 'lif', 'reference', 'register_surrogate']
