"""Spiking neurons, usable as any ``act_cfg``: ``dict(type='mmsnn.LIF', T=4)``."""

import inspect

from mmsnn.registry import MODELS, build_own, find_own

from .base import Neuron
from .firing import FiringRates, LayerFiring, SpikeCounter
from .ilif import ILIF, expand_levels, to_binary
from .lif import IF, LIF, PLIF
from .recording import record

DEFAULT = dict(type='LIF')


def neuron_config(neuron: str | dict | None, default: dict = DEFAULT) -> dict:
    """The config of a neuron as users write it, complete.

    Args:
        neuron: a dict with a ``type``; a dict without one, whose keys change ``default``; the type alone, as text; or
            None for ``default``.
        default: what a backbone takes where nothing else is said.

    Raises:
        TypeError: ``neuron`` is something else.
    """
    if isinstance(neuron, str):
        return dict(type=neuron)
    if neuron is not None and not isinstance(neuron, dict):
        raise TypeError(f"neuron: expected a dict such as dict(type='LIF', tau=2.0), or a type, got {neuron!r}")
    neuron = neuron or {}
    return dict(neuron) if 'type' in neuron else {**default, **neuron}


def build_neuron(cfg: dict, T: int) -> Neuron:
    """Build ``neuron=dict(type='LIF', ...)`` of a backbone, with the backbone's T.

    Raises:
        TypeError: ``cfg`` is no dict with a type, its type is no neuron, or it has a key that the neuron does not take;
            the message names ``neuron.KEY``.
        KeyError: unknown type.
    """
    if not isinstance(cfg, dict) or 'type' not in cfg:
        raise TypeError(f"neuron: expected a dict with a 'type', got {cfg!r}")
    cls = find_own(cfg)
    known = sorted(k for k, v in MODELS.module_dict.items() if inspect.isclass(v) and issubclass(v, Neuron))
    if cls is None:
        raise KeyError(f'neuron.type: {cfg["type"]!r} is not registered in mmsnn; neurons: {", ".join(known)}')
    if not (inspect.isclass(cls) and issubclass(cls, Neuron)):
        raise TypeError(f'neuron.type: {cfg["type"]!r} is no spiking neuron; neurons: {", ".join(known)}')
    signatures = [inspect.signature(c.__init__).parameters for c in cls.__mro__ if issubclass(c, Neuron)]
    takes = {k for each in signatures for k, p in each.items() if p.kind is not p.VAR_KEYWORD} - {'self'}
    if unknown := cfg.keys() - takes - {'type', '_scope_'}:
        names = ', '.join(f'neuron.{key}' for key in sorted(unknown))
        shown = ', '.join(sorted(takes - {'T', 'inplace'}))
        raise TypeError(f'{names}: {cls.__name__} takes no such key, but {shown}')
    return build_own({**cfg, 'T': T})


__all__ = [
    'FiringRates',
    'IF',
    'ILIF',
    'LIF',
    'LayerFiring',
    'Neuron',
    'PLIF',
    'SpikeCounter',
    'build_neuron',
    'expand_levels',
    'neuron_config',
    'record',
    'to_binary',
]
