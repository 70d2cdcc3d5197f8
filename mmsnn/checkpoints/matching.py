"""Comparing state dicts with models, and deciding whether enough of a model is filled."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from mmsnn.layers import TimeAware
from mmsnn.listing import some
from mmsnn.neurons import Neuron

# Ends of the names of entries that count calls and are not weights.
COUNTERS = ('num_batches_tracked', '_extra_state')
# Parts that compiling, sharding and activation checkpointing add to names.
WRAPPERS = {'_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module'}


@dataclass
class Match:
    """How a state dict (the source) fits a model. Names are the model's; those in ``unused`` are the source's.

    Attributes:
        matched: names that both have, with equal shapes.
        missing: names that only the model has, without counters.
        mismatched: by name, the different shapes in the source and in the model.
        unused: names that only the source has.
        state: the tensors of the source under the model's names.
        reading: how the names of the source were interpreted; empty if they are the model's.
    """

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    state: dict[str, Tensor] = field(default_factory=dict, repr=False)
    reading: str = ''

    def __str__(self) -> str:
        lines = [f'{len(self.matched)} tensors match, {len(self.missing) + len(self.mismatched)} do not']
        differing = [f'{k} (source {a}, model {b})' for k, (a, b) in self.mismatched.items()]
        groups = [
            ('not in the source', self.missing),
            ('shape differs', differing),
            ('unused in the source', self.unused),
        ]
        lines += [f'  {what}: {some(names, 8)}' for what, names in groups if names]
        lines += [f'  read as {self.reading}'] if self.reading else []
        return '\n'.join(lines)


def plain_name(key: str) -> str:
    """A name without the parts that DDP, ``torch.compile``, FSDP and activation checkpointing add."""
    parts = [part for part in key.split('.') if part not in WRAPPERS]
    while parts[0] == 'module' and len(parts) > 1:
        del parts[0]
    return '.'.join(parts)


def compare(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Match:
    """Compare ``state`` with ``own`` name by name; parts that wrappers add to names are ignored on both sides."""
    names, result = {plain_name(key): key for key in own}, Match()
    for key, value in state.items():
        name = plain_name(key)
        if name not in names:
            # A child may have been wrapped by itself; but such a name may also belong to another layout.
            inner = '.'.join(part for part in name.split('.') if part != 'module')
            name = inner if inner in names else name
        result.state.setdefault(names.get(name, name), value)
    for name, tensor in own.items():
        if name not in result.state:
            if not name.endswith(COUNTERS):
                result.missing.append(name)
        elif shape_of(result.state[name]) != shape_of(tensor):
            result.mismatched[name] = shape_of(result.state[name]), shape_of(tensor)
        else:
            result.matched.append(name)
    result.unused = [name for name in result.state if name not in own]
    return result


def shape_of(value) -> tuple[int, ...]:
    """The shape of a tensor; ``()`` for other objects in a state dict."""
    return tuple(getattr(value, 'shape', ()))


def is_wrapper(module: nn.Module) -> bool:
    """Whether a module shows its inner module's names as its own (Spikify, Resized, Distiller)."""
    return bool(getattr(type(module), 'inner', ''))


def is_spiking(model: nn.Module) -> bool:
    """Whether ``model`` has a neuron."""
    return any(isinstance(module, Neuron) for module in model.modules())


def learned_by_neurons(model: nn.Module) -> set[str]:
    """Names of the parameters of neurons (PLIF's time constants), which no ANN has."""
    neurons = [(name, m) for name, m in model.named_modules() if isinstance(m, Neuron)]
    return {f'{name}.{key}' for name, m in neurons for key in m.state_dict()}


def added_to_plain(model: nn.Module) -> tuple[str, ...]:
    """Prefixes of entries that spiking blocks add to a plain ResNet: plugins, offsets of deformable convolutions."""
    blocks = [(f'{name}.' if name else '', m) for name, m in model.named_modules()]
    return tuple(f'{lead}{child}.' for lead, m in blocks for child in getattr(m, 'beyond_plain', ()))


def misfit(candidate: Match, model: nn.Module, own: Mapping[str, Tensor]) -> str:
    """The reason why a training of ``model`` should not start from a match; empty if it may.

    Heads may differ, as they do in fine-tuning. A spiking backbone of mmsnn must be filled, except for parameters of
    neurons and for parts that were added to a plain ResNet. Other modules may have parts that no checkpoint has
    (offsets of deformable convolutions, norms of more outputs, SSD's layers after a VGG), so half of their kernels must
    be filled. If kernels are missing whose names differ only in their numbers from filled ones, four fifths must be
    filled, and some in every stage. In both cases the source may not have more blocks in the same stages, because it is
    then a deeper network.

    Args:
        candidate: the result of `compare`.
        model: a task model, of which only the ``backbone`` counts, or any other module, which counts as a whole.
        own: the state dict of ``model``.
    """
    if not candidate.matched and not candidate.mismatched:
        return f'fits nothing in {type(model).__name__}: it holds {some(candidate.unused)}, the model {some(list(own))}'
    lead = 'backbone.' if any(key.startswith('backbone.') for key in own) else ''
    part = model.backbone if lead and hasattr(model, 'backbone') else model
    what = f'the backbone of {type(model).__name__}' if lead else type(model).__name__
    learned = learned_by_neurons(model)
    learned |= {k for k in own if k.startswith(added_to_plain(model))}
    kernels = {k for k, v in own.items() if k.startswith(lead) and len(shape_of(v)) > 1 and k not in learned}
    filled = kernels.intersection(candidate.matched)
    lost = [k for k in (*candidate.missing, *candidate.mismatched) if k.startswith(lead) and k not in learned]
    kinds, stages = {_kind(k) for k in filled}, {_stage(k, lead) for k in filled}
    refused = bool(lost)
    if not isinstance(part, TimeAware) or is_wrapper(part):
        akin = [k for k in kernels - filled if _kind(k) in kinds]
        refused = len(filled) < (0.8 if akin else 0.5) * len(kernels) or any(
            _stage(k, lead) not in stages for k in akin
        )
    if refused:
        differing = [f'{k} {a} instead of {b}' for k, (a, b) in candidate.mismatched.items() if k in lost]
        missing = [k for k in lost if k not in candidate.mismatched]
        said = [f'has other shapes than {type(model).__name__}: {some(differing)}'] if differing else []
        if missing:
            said.append(f'lacks weights of {what} ({len(filled)} of {len(kernels)} kernels found): {some(missing)}')
            said += [f'holds {some(candidate.unused)}'] if candidate.unused else []
        return '; it '.join(said)
    spare = [k for k in candidate.unused if len(shape_of(candidate.state[k])) > 1]
    deeper = [k for k in spare if _stage(k, lead) in stages and _kind(k) in kinds]
    if deeper:
        return f'has {len(deeper)} more kernels in the stages of {what}, so it is a deeper network: {some(deeper)}'
    return ''


def _kind(name: str) -> str:
    return re.sub(r'\d+', '#', name)


def _stage(name: str, lead: str) -> str | None:
    return name.removeprefix(lead).split('.')[0] if name.startswith(lead) else None
