"""Spiking neurons, usable as any ``act_cfg``: ``dict(type='mmsnn.LIF', T=4)``."""

from mmsnn.registry import build_own

from .base import Neuron
from .ilif import ILIF, expand_levels, to_binary
from .lif import IF, LIF, PLIF


def build_neuron(cfg: dict, T: int) -> Neuron:
    """Build ``neuron=dict(type='LIF', ...)`` of a backbone, with the backbone's T.

    Raises:
        TypeError: ``cfg`` is no dict with a type, or has a key that the neuron does not take.
        KeyError: unknown type.
    """
    return build_own({**cfg, 'T': T} if isinstance(cfg, dict) else cfg)


__all__ = ['IF', 'ILIF', 'LIF', 'PLIF', 'Neuron', 'build_neuron', 'expand_levels', 'to_binary']
