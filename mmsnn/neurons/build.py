"""Building neurons from their configs."""

import inspect

from mmsnn.registry import MODELS, build_own, find_own

from .base import Neuron

DEFAULT = dict(type='LIF')


def neuron_config(neuron: str | dict | None, default: dict = DEFAULT) -> dict:
    """The complete config of a neuron, from the short forms that users may write.

    Args:
        neuron: a dict with a ``type``; a dict without one, whose keys replace those of ``default``; the type as a
            string; or None for ``default``.
        default: the config that ``neuron`` changes.

    Raises:
        TypeError: ``neuron`` has another type.
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
        TypeError: ``cfg`` is not a dict with a type, its type is not a neuron, or the neuron does not take one of its
            keys; the message names ``neuron.KEY``.
        KeyError: no class of that type is registered.
    """
    if not isinstance(cfg, dict) or 'type' not in cfg:
        raise TypeError(f"neuron: expected a dict with a 'type', got {cfg!r}")
    cls = find_own(cfg)
    known = ', '.join(sorted(name for name, each in MODELS.module_dict.items() if _is_neuron(each)))
    if cls is None:
        raise KeyError(f'neuron.type: {cfg["type"]!r} is not registered in mmsnn; neurons: {known}')
    if not _is_neuron(cls):
        raise TypeError(f'neuron.type: {cfg["type"]!r} is not a spiking neuron; neurons: {known}')
    keys = _keys_of(cls)
    if unknown := cfg.keys() - keys - {'type', '_scope_'}:
        names = ', '.join(f'neuron.{key}' for key in sorted(unknown))
        shown = ', '.join(sorted(keys - {'T', 'inplace'}))
        raise TypeError(f'{names}: {cls.__name__} has no such key; it takes {shown}')
    return build_own({**cfg, 'T': T})


def _is_neuron(cls) -> bool:
    return inspect.isclass(cls) and issubclass(cls, Neuron)


def _keys_of(cls: type[Neuron]) -> set[str]:
    """The arguments of the class and of its base classes, to which it passes its ``**settings``."""
    signatures = [inspect.signature(each.__init__).parameters for each in cls.__mro__ if issubclass(each, Neuron)]
    return {key for each in signatures for key, p in each.items() if p.kind is not p.VAR_KEYWORD} - {'self'}
