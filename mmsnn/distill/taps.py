"""Taps: names of modules whose outputs are read."""

import re
from dataclasses import dataclass
from difflib import get_close_matches

from torch import nn

from mmsnn.neurons import Neuron

# The parts of a task model that compute feature maps from images.
FEATURES = ('backbone', 'neck')


@dataclass(frozen=True)
class Tap:
    """Where a feature is read: ``backbone.layer1``, or ``bbox_head[0]`` for one item of a module's output.

    ``backbone.layer4|neck|head.fc`` runs further modules on the output of the first. This gives the logits of single
    time steps for a network whose own head receives their mean. Necks and heads are given a tuple of levels, the
    modules inside them a tensor.

    In a list of modules, such as the heads of a cascade, ``decode_head.0`` is the first module, ``decode_head.-1`` or
    ``decode_head`` the last, and ``decode_head.conv_seg`` a module of the last. A tap records every call of its module,
    but only the last call of a cascade's head.

    ``backbone.layer4@v`` reads the membrane potential (before firing) of a neuron: of the module itself if it is one,
    otherwise of the last neuron in it. Only this neuron then runs separately from its norm, and its potential is
    computed a second time; nothing else changes.

    Args:
        module: dotted name of the module in the task model.
        index: item of the module's output, None for the whole output.
        potential: whether the membrane potential is read instead of the output.
        time: ``mean`` over the time steps, ``steps`` for ``[T, B, ...]``, or ``short_T`` for the ``[2*B, ...]`` of
            `mmsnn.layers.short_and_full`; it has no meaning for an ANN.
        pipe: names of the modules that run on the output.
    """

    module: str
    index: int | None = None
    time: str = 'mean'
    pipe: tuple[str, ...] = ()
    potential: bool = False

    @classmethod
    def parse(cls, spec: str, time: str = 'mean') -> 'Tap':
        """A tap from ``name``, ``name[i]`` or ``name@v``, optionally followed by ``|name``; ValueError otherwise."""
        pattern = r'([\w.-]+?)(?:\[(\d+)\]|(@v))?((?:\|[\w.-]+)*)'
        match = re.fullmatch(pattern, spec) if isinstance(spec, str) else None
        if match is None:
            raise ValueError(
                "a tap is written 'module.name', 'module.name[0]' or, for membrane potentials, 'module.name@v', "
                f"optionally followed by '|next.module', got {spec!r}"
            )
        index = None if match[2] is None else int(match[2])
        return cls(match[1], index, time, tuple(match[4].split('|')[1:]), potential=bool(match[3]))

    @property
    def part(self) -> str:
        """The child of the task model that contains the module."""
        return self.module.partition('.')[0]

    def __str__(self) -> str:
        suffix = '@v' if self.potential else '' if self.index is None else f'[{self.index}]'
        return '|'.join([self.module + suffix, *self.pipe])


class TapError(ValueError):
    """What a tap reads cannot be compared.

    Attributes:
        tap: the `Tap`.
    """

    def __init__(self, tap: Tap, message: str):
        super().__init__(message)
        self.tap = tap


def resolve(model: nn.Module, tap: Tap, role: str) -> nn.Module:
    """The module that a tap reads; for a potential, the neuron.

    Raises:
        ValueError: the tap, or a module in its pipe, names no module of ``model``; the message lists similar names.
    """
    for name in tap.pipe:
        resolve(model, Tap(name), role)
    module = model
    path: list[str] = []
    for part in tap.module.split('.'):
        child = _child(module, part)
        if child is None:
            known = ', '.join(name for name, _ in module.named_children())
            raise ValueError(
                f'{role} tap {str(tap)!r} names no module of {type(model).__name__}: '
                f'{".".join(path) or "the model"} has {known or "no children"}{_near(model, tap.module)}'
            )
        module, path = child, [*path, part]
    if isinstance(module, nn.ModuleList):
        module = module[-1]
    if tap.potential:
        neurons = [m for m in module.modules() if isinstance(m, Neuron)]
        if not neurons:
            raise ValueError(f'{role} tap {str(tap)!r}: {tap.module} has no spiking neuron with a potential')
        return neurons[-1]
    return module


def _child(module: nn.Module, part: str) -> nn.Module | None:
    """A child by its name. A child of a list is named by its number; any other name is looked up in the last one."""
    if isinstance(module, nn.ModuleList) and len(module):
        if re.fullmatch(r'-?\d+', part):
            return module[int(part)] if -len(module) <= int(part) < len(module) else None
        module = module[-1]
    child = getattr(module, part, None)
    empty = isinstance(child, nn.ModuleList) and not len(child)
    return child if isinstance(child, nn.Module) and not empty else None


def _near(model: nn.Module, name: str) -> str:
    """The end of a message: names that are similar to ``name``."""
    names = [n for n, _ in model.named_modules() if n]
    last = name.rpartition('.')[2]
    same = [n for n in names if n.rpartition('.')[2] == last and n.partition('.')[0] not in FEATURES]
    close = [*same[:2], *get_close_matches(name, names, 3)]
    return f'. Did you mean {" or ".join(dict.fromkeys(close))}?' if close else ''
