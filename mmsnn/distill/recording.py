"""The recorder, which stores the outputs of tapped modules during a forward."""

import re
from functools import partial, wraps

import torch
from torch import Tensor, nn

from mmsnn.layers import Readout, short_and_full, unfold
from mmsnn.neurons import Neuron
from mmsnn.neurons.watched import SavedAside

from .taps import FEATURES, Tap, TapError, resolve


class Recorder:
    """Context that stores the outputs of the tapped modules; `get` returns them afterwards.

    Outputs are copied when they appear (the mean over time is a copy), because a later in-place addition would change
    them.

    Args:
        model: the task model.
        taps: the taps to record.
        role: ``student`` or the name of a teacher, for messages.
        T: time steps of the model.
        batch_size: images in the batch.
        short_T: the argument of `read_short` where the model runs inside of it.
        views: for models that train on several views of each image: a list to which the images of each call of the
            backbone are appended; ``batch_size`` is then read from them.

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
        short_T: int | None = None,
        views: list[Tensor] | None = None,
    ):
        self.model, self.role, self.T, self.batch_size, self.short_T = model, role, T, batch_size, short_T
        self.views = views
        self.taps = set(taps)
        self.outputs: dict[Tap, list[Tensor]] = {}
        self.handles: list = []
        for tap in self.taps:
            resolve(model, tap, role)

    def __enter__(self) -> 'Recorder':
        if self.views is not None:
            self.handles.append(self.model.backbone.register_forward_pre_hook(partial(self._see, self.views)))
        for tap in self.taps:
            module = resolve(self.model, tap, self.role)
            if tap.potential:
                self.handles.append(module.register_forward_hook(partial(self._keep_potential, tap)))
            elif tap.part in FEATURES or not re.fullmatch(r'\w+(\.-?\d+)?', tap.module):
                # A hook that takes no keyword arguments would make neuron and norm run as two ops.
                keep = partial(self._keep_output, tap)
                self.handles.append(module.register_forward_hook(keep, with_kwargs=True))
            else:
                # A cascade calls a head twice, and only the last call is kept.
                last = isinstance(getattr(self.model, tap.part), nn.ModuleList)
                self.handles.append(_Listener(module, partial(self._keep, tap, last=last)))
        return self

    def __exit__(self, *_) -> None:
        # The last one first: of two listeners at one module, the later has wrapped the earlier.
        while self.handles:
            self.handles.pop().remove()

    def _see(self, views: list[Tensor], _backbone: nn.Module, inputs: tuple) -> None:
        views.append(inputs[0])
        self.batch_size = len(inputs[0])

    def _keep_potential(self, tap: Tap, neuron: Neuron, inputs: tuple, out) -> None:
        spikes = out[0] if isinstance(out, tuple) else out
        # Only the last call of a shared neuron is kept.
        with SavedAside():
            self.outputs[tap] = [self._view(tap, neuron.potentials(inputs[0], spikes).to(spikes.dtype))]

    def _keep_output(self, tap: Tap, _module, _args, _kwargs, out) -> None:
        self._keep(tap, out)

    def _keep(self, tap: Tap, out, last: bool = False) -> None:
        if tap.index is not None:
            if not isinstance(out, (tuple, list)) or tap.index >= len(out):
                raise TapError(tap, f'{self.role} tap {tap}: the output of {tap.module} has no item {tap.index}')
            out = out[tap.index]
        several = _is_list(out)
        outs = list(out) if several else [out]
        if not all(isinstance(o, Tensor) for o in outs):
            kinds = [type(o).__name__ for o in outs] if several else type(out).__name__
            fit = [i for i, o in enumerate(outs) if all(isinstance(v, Tensor) for v in (o if _is_list(o) else [o]))]
            remedy = 'add an index' + (f", as in '{tap.module}[{fit[-1]}]'" if fit else '')
            raise TapError(
                tap,
                f'{self.role} tap {tap} gives {kinds}, not tensors: '
                + (remedy if several else f'tap a layer inside {tap.module}'),
            )
        before = [] if last else self.outputs.get(tap, [])
        self.outputs[tap] = before + [self._view(tap, o) for o in outs]

    def _view(self, tap: Tap, out: Tensor) -> Tensor:
        spiking = self.T > 1 and before_readout(self.model, tap)
        # Before the readout, only a stem that processes a still image once holds no time steps.
        folded = spiking and out.dim() > 0 and out.shape[0] % (self.T * self.batch_size) == 0
        if self.short_T is not None:
            if tap.time == 'short_T':
                if folded:
                    return short_and_full(unfold(out, self.T), self.short_T)
                return torch.cat([out, out]) if out.shape[0] == self.batch_size else out.clone()
            out = out if folded or out.shape[0] == self.batch_size else out[self.batch_size :]
        if tap.time == 'steps':
            if self.T > 1 and not folded:
                if self.role != 'student':
                    # A teacher's mean over time serves as the target of every step.
                    return out.clone().unsqueeze(0)
                raise TapError(
                    tap,
                    f'{self.role} tap {tap} has no time steps left ({tuple(out.shape)}): tap a stage of the backbone, '
                    "and go on from there: 'backbone.layer4|neck|head.fc'",
                )
            return unfold(out, self.T).clone()
        return unfold(out, self.T).mean(0) if folded else out.clone()

    def follow_pipes(self) -> None:
        """Run the modules named after ``|`` on the recorded outputs; call it after the context, which would otherwise
        record these modules again.
        """
        for tap in self.taps:
            if not tap.pipe or tap not in self.outputs:
                continue
            if self.views and len(self.views) > 1:
                raise TapError(tap, f"{self.role} tap {tap}: '|' is not possible with several views of each image")
            tensors = self.outputs[tap]
            steps = tensors[0].shape[:2] if tap.time == 'steps' else None
            out = tuple(x.flatten(0, 1) for x in tensors) if steps else tuple(tensors)
            for name in tap.pipe:
                # Necks and heads take a tuple of levels, the modules inside them take a tensor.
                out = out if isinstance(out, (tuple, list)) else (out,)
                out = resolve(self.model, Tap(name), self.role)(out[0] if '.' in name else tuple(out))
            outs = out if isinstance(out, (tuple, list)) else [out]
            self.outputs[tap] = [x.unflatten(0, steps) if steps else x for x in outs]

    def get(self, tap: Tap) -> list[Tensor]:
        """The tensors of a tap, one per call and item of the output (feature level).

        Raises:
            ValueError: the module was not called, or the student's tensor carries no gradient.
        """
        if tap not in self.outputs:
            raise TapError(
                tap,
                f'{self.role} tap {tap}: the module was not called in this forward; tap a layer inside it '
                "(e.g. 'decode_head.conv_seg')",
            )
        out = self.outputs[tap]
        if self.role == 'student' and torch.is_grad_enabled() and not all(o.requires_grad for o in out):
            with_gradient = [i for i, o in enumerate(out) if o.requires_grad]
            if with_gradient and tap.index is None:
                raise TapError(
                    tap,
                    f'student tap {tap}: some of its {len(out)} tensors carry no gradient, such as a mask; tap one '
                    f"that does: '{tap.module}[{with_gradient[0]}]'",
                )
            raise TapError(
                tap,
                f'student tap {tap} carries no gradient, so its loss would train nothing: the stage is frozen '
                '(frozen_stages), or runs under reentrant activation checkpointing',
            )
        return out


def _is_list(value) -> bool:
    return isinstance(value, (tuple, list))


class _Listener:
    """Calls ``keep`` with the output of a module, also where ``forward`` is called directly, as segmentors do."""

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


def before_readout(model: nn.Module, tap: Tap) -> bool:
    """Whether the output of a tap holds time steps, which is so unless a readout has averaged over them before.

    A backbone without such a readout passes its time steps on to the neck, and the neck passes them on to the heads.
    """

    def reads_out(part: str) -> bool:
        child = getattr(model, part, None)
        modules = child.modules() if isinstance(child, nn.Module) else ()
        return any(isinstance(m, Readout) and m.mode == 'mean' for m in modules)

    part, _, inside = tap.module.partition('.')
    if reads_out(part):
        return bool(inside)
    earlier = FEATURES[: FEATURES.index(part)] if part in FEATURES else FEATURES
    return not any(reads_out(name) for name in earlier)
