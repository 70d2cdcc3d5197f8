"""Taps: names of modules whose outputs are read."""

import re
from dataclasses import dataclass
from difflib import get_close_matches

from torch import nn

from mmsnn.neurons import Neuron

# the parts of a task model that turn images into feature maps
FEATURES = ('backbone', 'neck')


@dataclass(frozen=True)
class Tap:
    """Where a feature is read: ``backbone.layer1``, or ``bbox_head[0]`` for one item of a module's output.

    ``backbone.layer4|neck|head.fc`` sends what is read through further modules once more: the logits of single time
    steps, for a network whose own head sees their mean. Necks and heads are given a tuple of levels, modules inside
    them a tensor.

    Of a list of modules (the heads of a cascade) ``decode_head.0`` is the first, ``decode_head.-1`` or ``decode_head``
    the last, and ``decode_head.conv_seg`` lies in the last. Every call of a module counts, but of a cascade's head the
    last one.

    ``backbone.layer4@v`` reads the membrane potential (before firing) of a neuron: the module itself, or the last one
    in it. Only this neuron then runs apart from its norm, and its potential is computed again; nothing else changes.

    Args:
        module: dotted name below the task model.
        index: item of the output, None for all of it.
        potential: whether the membrane potential is read instead of the output.
        time: ``mean`` over the time steps, ``steps`` for ``[T, B, ...]``, or ``short_T`` for the ``[2*B, ...]`` of
            `mmsnn.layers.short_and_full`; without meaning for an ANN.
        pipe: names of the modules behind it.
    """

    module: str
    index: int | None = None
    time: str = 'mean'
    pipe: tuple[str, ...] = ()
    potential: bool = False

    @classmethod
    def parse(cls, spec: str, time: str = 'mean') -> 'Tap':
        """Read ``name``, ``name[i]`` or ``name@v``, perhaps with ``|name`` behind it; ValueError for anything else."""
        pattern = r'([\w.-]+?)(?:\[(\d+)\]|(@v))?((?:\|[\w.-]+)*)'
        match = re.fullmatch(pattern, spec) if isinstance(spec, str) else None
        if match is None:
            raise ValueError(
                "a tap is written 'module.name', 'module.name[0]' or, for membrane potentials, 'module.name@v', "
                f"perhaps with '|next.module' behind it, got {spec!r}"
            )
        index = None if match[2] is None else int(match[2])
        return cls(match[1], index, time, tuple(match[4].split('|')[1:]), potential=bool(match[3]))

    @property
    def part(self) -> str:
        """The child of the task model that it lies in."""
        return self.module.partition('.')[0]

    def __str__(self) -> str:
        suffix = '@v' if self.potential else '' if self.index is None else f'[{self.index}]'
        return '|'.join([self.module + suffix, *self.pipe])


def resolve(model: nn.Module, tap: Tap, role: str) -> nn.Module:
    """The module that a tap names first (for a potential, its neuron); ValueError that lists what there is, also for
    those behind it.
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
            raise ValueError(f'{role} tap {str(tap)!r}: {tap.module} holds no spiking neuron with a potential')
        return neurons[-1]
    return module


def _child(module: nn.Module, part: str) -> nn.Module | None:
    """A child by name; of a list by its number, or else what the last of the list has of that name."""
    if isinstance(module, nn.ModuleList) and len(module):
        if re.fullmatch(r'-?\d+', part):
            return module[int(part)] if -len(module) <= int(part) < len(module) else None
        module = module[-1]
    child = getattr(module, part, None)
    empty = isinstance(child, nn.ModuleList) and not len(child)
    return child if isinstance(child, nn.Module) and not empty else None


def _near(model: nn.Module, name: str) -> str:
    """Names that ``name`` may have meant, as the end of a message."""
    names = [n for n, _ in model.named_modules() if n]
    last = name.rpartition('.')[2]
    same = [n for n in names if n.rpartition('.')[2] == last and n.partition('.')[0] not in FEATURES]
    close = [*same[:2], *get_close_matches(name, names, 3)]
    return f'. Did you mean {" or ".join(dict.fromkeys(close))}?' if close else ''
