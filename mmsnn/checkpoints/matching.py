"""Which entries of a state dict have a place in a model, and whether that is enough of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from mmsnn.layers import TimeAware
from mmsnn.neurons import Neuron

# entries of a state dict that count calls and are no weights
COUNTERS = ('num_batches_tracked', '_extra_state')
# what compiling, sharding and activation checkpointing write into the names below the module that they wrap
WRAPPERS = {'_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module'}


@dataclass
class Match:
    """How a state dict fits a model; names are the model's, in ``unused`` the source's.

    Attributes:
        matched: names of equal shape in both.
        missing: of the model, not in the source; counters are left out.
        mismatched: the shapes in the source and in the model.
        unused: of the source, not in the model.
        state: the source under the model's names.
        reading: how the names of the source were read, where they are not the model's.
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


def some(names: list[str], shown: int = 3) -> str:
    """The first of some names, and how many more there are."""
    return ', '.join(names[:shown]) + (f' and {len(names) - shown} more' if len(names) > shown else '')


def plain_name(key: str) -> str:
    """A name without what DDP, ``torch.compile``, FSDP and activation checkpointing put into it."""
    parts = [part for part in key.split('.') if part not in WRAPPERS]
    while parts[0] == 'module' and len(parts) > 1:
        del parts[0]
    return '.'.join(parts)


def compare(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Match:
    """How ``state`` fits ``own``, name by name; what wraps modules on either side makes no difference."""
    names, found = {plain_name(key): key for key in own}, Match()
    for key, value in state.items():
        name = plain_name(key)
        if name not in names:
            # a child that was wrapped alone; such a name may also be a layout's
            inner = '.'.join(part for part in name.split('.') if part != 'module')
            name = inner if inner in names else name
        found.state.setdefault(names.get(name, name), value)
    for name, tensor in own.items():
        if name not in found.state:
            if not name.endswith(COUNTERS):
                found.missing.append(name)
        elif shape_of(found.state[name]) != shape_of(tensor):
            found.mismatched[name] = shape_of(found.state[name]), shape_of(tensor)
        else:
            found.matched.append(name)
    found.unused = [name for name in found.state if name not in own]
    return found


def shape_of(value) -> tuple[int, ...]:
    """A tensor's shape; of what else a state dict may hold, none."""
    return tuple(getattr(value, 'shape', ()))


def is_wrapper(module: nn.Module) -> bool:
    """Whether a module shows itself under the names of its inner one (Spikify, Resized, Distiller)."""
    return bool(getattr(type(module), 'inner', ''))


def is_spiking(model: nn.Module) -> bool:
    """Whether there is a neuron in it."""
    return any(isinstance(module, Neuron) for module in model.modules())


def learned_by_neurons(model: nn.Module) -> set[str]:
    """Names of what neurons learn (PLIF's time constants), which no ANN has."""
    neurons = [(name, m) for name, m in model.named_modules() if isinstance(m, Neuron)]
    return {f'{name}.{key}' for name, m in neurons for key in m.state_dict()}


def added_to_plain(model: nn.Module) -> tuple[str, ...]:
    """Lead names of what spiking blocks have beyond a plain ResNet's: plugins, offsets of deformable convolutions."""
    blocks = [(f'{name}.' if name else '', m) for name, m in model.named_modules()]
    return tuple(f'{lead}{child}.' for lead, m in blocks for child in getattr(m, 'beyond_plain', ()))


def misfit(found: Match, model: nn.Module, own: Mapping[str, Tensor]) -> str:
    """Why a model should not start from what was found for it; empty if it may.

    A head may differ: fine-tuning begins so. A spiking backbone of mmsnn has to be filled but for what its neurons
    learn and for what was added to a plain ResNet. Other modules may have parts that no checkpoint has (offsets of
    deformable convolutions, norms of more outputs, SSD's layers behind a VGG): half of their kernels have to be filled,
    and where kernels of a kind that was found are lacking, four fifths and some in every stage. In neither may the
    source have more blocks in the same stages: it is a deeper network then.

    Args:
        found: as `compare` gives it.
        model: a task model, whose ``backbone`` counts, or any other module, which counts as a whole.
        own: its state dict.
    """
    if not found.matched and not found.mismatched:
        return f'fits nothing in {type(model).__name__}: it holds {some(found.unused)}, the model {some(list(own))}'
    lead = 'backbone.' if any(key.startswith('backbone.') for key in own) else ''
    part = model.backbone if lead and hasattr(model, 'backbone') else model
    what = f'the backbone of {type(model).__name__}' if lead else type(model).__name__
    learned = learned_by_neurons(model)
    learned |= {k for k in own if k.startswith(added_to_plain(model))}
    kernels = {k for k, v in own.items() if k.startswith(lead) and len(shape_of(v)) > 1 and k not in learned}
    filled = kernels.intersection(found.matched)
    lost = [k for k in (*found.missing, *found.mismatched) if k.startswith(lead) and k not in learned]
    kinds, stages = {_kind(k) for k in filled}, {_stage(k, lead) for k in filled}
    refused = bool(lost)
    if not isinstance(part, TimeAware) or is_wrapper(part):
        akin = [k for k in kernels - filled if _kind(k) in kinds]
        refused = len(filled) < (0.8 if akin else 0.5) * len(kernels) or any(
            _stage(k, lead) not in stages for k in akin
        )
    if refused:
        differing = [f'{k} {a} instead of {b}' for k, (a, b) in found.mismatched.items() if k in lost]
        missing = [k for k in lost if k not in found.mismatched]
        said = [f'has other shapes than {type(model).__name__}: {some(differing)}'] if differing else []
        if missing:
            said.append(f'lacks weights of {what} ({len(filled)} of {len(kernels)} kernels found): {some(missing)}')
            said += [f'holds {some(found.unused)}'] if found.unused else []
        return '; it '.join(said)
    spare = [k for k in found.unused if len(shape_of(found.state[k])) > 1]
    deeper = [k for k in spare if _stage(k, lead) in stages and _kind(k) in kinds]
    if deeper:
        return f'has {len(deeper)} more kernels in the stages of {what}, so it is a deeper network: {some(deeper)}'
    return ''


def _kind(name: str) -> str:
    return re.sub(r'\d+', '#', name)


def _stage(name: str, lead: str) -> str | None:
    return name.removeprefix(lead).split('.')[0] if name.startswith(lead) else None
