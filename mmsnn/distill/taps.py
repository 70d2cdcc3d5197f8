"""Taps: outputs of named modules, recorded during one forward."""

import inspect
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial, wraps

import torch
from torch import Tensor, nn

from mmsnn.layers import Readout, unfold, with_prefix
from mmsnn.neurons import Neuron
from mmsnn.neurons.watched import SavedAside

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
        time: ``mean`` over the time steps, ``steps`` for ``[T, B, ...]``, or ``prefix`` for the ``[2*B, ...]`` of
            `mmsnn.layers.with_prefix`; without meaning for an ANN.
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


class Recorder:
    """Context in which the outputs of the tapped modules are kept; afterwards `get` hands them out.

    Outputs are copied (the time mean is one) as they appear, because a later in-place addition would change them.

    Args:
        model: the task model.
        taps: what to record.
        role: ``student`` or ``teacher``, for messages.
        T: time steps of the model.
        batch_size: images in the batch; a tensor whose first dimension is T times that holds time steps.
        prefix: set while the model runs in `read_prefix`.
        views: a list to which the backbone's images are added, call by call; ``batch_size`` is then theirs. For models
            that train on several views of each image.

    Raises:
        ValueError: a tap names no module.
    """

    def __init__(
        self,
        model: nn.Module,
        taps,
        role: str,
        T: int = 1,
        batch_size: int = 1,
        prefix: int | None = None,
        views: list[Tensor] | None = None,
    ):
        self.model, self.role, self.T, self.batch_size, self.prefix = model, role, T, batch_size, prefix
        self.views = views
        self.taps = set(taps)
        self.found: dict[Tap, list[Tensor]] = {}
        self.handles = []
        for tap in self.taps:
            resolve(model, tap, role)

    def __enter__(self) -> 'Recorder':
        if self.views is not None:
            self.handles.append(self.model.backbone.register_forward_pre_hook(self._see))
        for tap in self.taps:
            module = resolve(self.model, tap, self.role)
            if tap.potential:
                self.handles.append(module.register_forward_hook(partial(self._keep_potential, tap)))
            elif tap.part in FEATURES or not re.fullmatch(r'\w+(\.-?\d+)?', tap.module):
                # with keyword arguments, because hooks without them part a neuron from its norm
                keep = partial(self._keep_output, tap)
                self.handles.append(module.register_forward_hook(keep, with_kwargs=True))
            else:
                # a cascade calls a head twice, and means the same
                last = isinstance(getattr(self.model, tap.part), nn.ModuleList)
                self.handles.append(_Listener(module, partial(self._keep, tap, last=last)))
        return self

    def __exit__(self, *_) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def _see(self, _backbone: nn.Module, inputs: tuple) -> None:
        self.views.append(inputs[0])
        self.batch_size = len(inputs[0])

    def _keep_potential(self, tap: Tap, neuron: Neuron, inputs: tuple, out) -> None:
        spikes = out[0] if isinstance(out, tuple) else out
        # of its last call: one neuron may serve at several sites
        with SavedAside():
            self.found[tap] = [self._view(tap, neuron.potentials(inputs[0], spikes).to(spikes.dtype))]

    def _keep_output(self, tap: Tap, _module, _args, _kwargs, out) -> None:
        self._keep(tap, out)

    def _keep(self, tap: Tap, out, last: bool = False) -> None:
        if tap.index is not None:
            if not isinstance(out, (tuple, list)) or tap.index >= len(out):
                raise ValueError(f'{self.role} tap {tap}: the output of {tap.module} has no item {tap.index}')
            out = out[tap.index]
        outs = list(out) if isinstance(out, (tuple, list)) else [out]
        if not all(isinstance(o, Tensor) for o in outs):
            kinds = [type(o).__name__ for o in outs] if isinstance(out, (tuple, list)) else type(out).__name__
            raise ValueError(
                f'{self.role} tap {tap} gives {kinds}, not tensors: '
                + ('add an index' if isinstance(out, (tuple, list)) else f'tap a layer inside {tap.module}')
            )
        before = [] if last else self.found.get(tap, [])
        self.found[tap] = before + [self._view(tap, o) for o in outs]

    def _view(self, tap: Tap, out: Tensor) -> Tensor:
        folded = self.T > 1 and out.shape[0] == self.T * self.batch_size
        if self.prefix is not None:
            # twice the batch behind the readout may be as much as T times in front of it
            folded = folded and _before_readout(self.model, tap)
            if tap.time == 'prefix':
                return with_prefix(unfold(out, self.T), self.prefix) if folded else out.clone()
            out = out if folded else out[self.batch_size :]
        if tap.time == 'steps':
            if self.T > 1 and not folded:
                if self.role != 'student':
                    # a mean teaches every step
                    return out.clone().unsqueeze(0)
                raise ValueError(
                    f'{self.role} tap {tap} has no time steps left ({tuple(out.shape)}): tap a stage of the backbone, '
                    "and go on from there: 'backbone.layer4|neck|head.fc'"
                )
            return unfold(out, self.T).clone()
        return unfold(out, self.T).mean(0) if folded else out.clone()

    def follow_pipes(self) -> None:
        """Send what was read through the modules behind it; after the context, so that nothing is recorded twice."""
        for tap in self.taps:
            if not tap.pipe or tap not in self.found:
                continue
            if self.views and len(self.views) > 1:
                raise ValueError(f'{self.role} tap {tap}: no modules behind what sees several views of each image')
            found = self.found[tap]
            steps = found[0].shape[:2] if tap.time == 'steps' else None
            out = tuple(x.flatten(0, 1) for x in found) if steps else tuple(found)
            for name in tap.pipe:
                # necks and heads take a tuple of levels, what lies inside them a tensor
                out = out if isinstance(out, (tuple, list)) else (out,)
                out = resolve(self.model, Tap(name), self.role)(out[0] if '.' in name else tuple(out))
            outs = out if isinstance(out, (tuple, list)) else [out]
            self.found[tap] = [x.unflatten(0, steps) if steps else x for x in outs]

    def get(self, tap: Tap) -> list[Tensor]:
        """The tensors of a tap, one a call or item (feature levels).

        Raises:
            ValueError: the module did not run, or the student's tensor carries no gradient.
        """
        if tap not in self.found:
            raise ValueError(
                f'{self.role} tap {tap}: the module was not called in this forward; tap a layer inside it '
                "(e.g. 'decode_head.conv_seg')"
            )
        out = self.found[tap]
        if self.role == 'student' and torch.is_grad_enabled() and not all(o.requires_grad for o in out):
            raise ValueError(
                f'student tap {tap} carries no gradient, so its loss would train nothing: the stage is frozen '
                '(frozen_stages), or runs under reentrant activation checkpointing'
            )
        return out


class _Listener:
    """Tells ``keep`` what a module returns, also where its ``forward`` is called directly, as segmentors do."""

    def __init__(self, module: nn.Module, keep):
        self.module, self.own = module, module.__dict__.get('forward')
        forward = module.forward

        @wraps(forward)
        def listening(*args, **kwargs):
            out = forward(*args, **kwargs)
            keep(out)
            return out

        module.forward = listening

    def remove(self) -> None:
        if self.own is None:
            del self.module.forward
        else:
            self.module.forward = self.own


def resolve(model: nn.Module, tap: Tap, role: str) -> nn.Module:
    """The module that a tap names first (for a potential, its neuron); ValueError that lists what there is, also for
    those behind it.
    """
    for name in tap.pipe:
        resolve(model, Tap(name), role)
    module, path = model, []
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


def _before_readout(model: nn.Module, tap: Tap) -> bool:
    """Whether a tap lies inside the part that takes time out (a backbone, or a spiking head), or in an earlier part."""
    part, _, inside = tap.module.partition('.')
    parts = dict(model.named_children())
    reading = [any(isinstance(m, Readout) and m.mode == 'mean' for m in child.modules()) for child in parts.values()]
    i = list(parts).index(part)
    return bool(inside) if reading[i] else any(reading[i:])


class HeadError(ValueError):
    """A tapped part of a task model does not run on feature maps alone.

    Attributes:
        part: its name.
    """

    def __init__(self, part: str, message: str):
        super().__init__(message)
        self.part = part


def run(model: nn.Module, images: Tensor, taps, role: str) -> None:
    """Forward just far enough for the taps to fire: the features, and those heads that hold a tap.

    The student's heads answer as in training, some of them more than in testing; what is inside them stays in the mode
    it is in. Their own mode is left changed.

    Raises:
        HeadError: a tap lies in a part that takes more than feature maps: queries, or proposals.
    """
    if not hasattr(model, 'extract_feat'):
        raise HeadError(
            taps[0].part,
            f'{type(model).__name__} (the {role}) has no extract_feat, by which one batch of images is tapped',
        )
    feats = model.extract_feat(images)
    for part in dict.fromkeys(tap.part for tap in taps):
        if part in FEATURES:
            continue
        heads, out = getattr(model, part), feats
        if not isinstance(heads, nn.ModuleList):
            _call(heads, part, role, feats)
            continue
        for head in heads[: 1 + max(_place(tap, len(heads)) for tap in taps if tap.part == part)]:
            # the heads of a cascade see what the one before has answered
            out = _call(head, part, role, feats) if len(_needs(head)) < 2 else _call(head, part, role, feats, out)


def _place(tap: Tap, length: int) -> int:
    second = tap.module.split('.')[1:2]
    number = int(second[0]) if second and re.fullmatch(r'-?\d+', second[0]) else -1
    return number % length


def _needs(head: nn.Module) -> list[str]:
    """The arguments that a module's forward cannot do without."""
    parameters = inspect.signature(head.forward).parameters.values()
    positional = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [p.name for p in parameters if p.kind in positional and p.default is p.empty]


def _call(head: nn.Module, part: str, role: str, *args):
    needs = _needs(head)
    head.training = head.training or role == 'student'
    try:
        if len(needs) == len(args):
            return head(*args)
        reason = None
    except TypeError as error:
        reason = error
    raise HeadError(
        part,
        f'{part} ({type(head).__name__}) of the {role} does not run on feature maps alone: it takes '
        f'{", ".join(needs)}. Queries, points and proposals of boxes are those of each network and have no counterpart '
        'in the other, so its answers cannot be compared. Terms on features can: FeatureMSE, PKD or AttentionMSE with '
        "taps in 'backbone' or 'neck'; of two-stage detectors also DenseResponse on the RPN (head='rpn_head'), of "
        'PointRend PixelKL on its first head (decode_head.0)',
    ) from reason
