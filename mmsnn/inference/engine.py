"""Event-driven inference on a CPU: a network whose cost falls with its firing rates."""

import functools
import logging
from dataclasses import replace

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from mmsnn.layers.time import TimeAware
from mmsnn.neurons import Neuron
from mmsnn.ops import NeuronSettings, extension
from mmsnn.ops.transforms import is_transformed

from . import handlers
from .choice import DENSE, Choice, pays
from .lazy import Current, Lazy, Spikes
from .report import EventReport, LayerCounts
from .weights import Folded, Watched

ENGINES = ('auto', 'event')
WEIGHTS = ('float32', 'bfloat16')


class Engine:
    """Runs the convolutions, norms and neurons of one network on events; `event_driven` puts it there.

    Args:
        choice: ``auto`` or ``event``.
        weights: ``float32`` or ``bfloat16``.
    """

    def __init__(self, choice: str = 'auto', weights: str = 'float32'):
        self.choice, self.weights = choice, weights
        self.counts = LayerCounts()
        self.whole = Choice() if choice == 'auto' else None
        # for each weight, by the norm behind it: what is watched, and what was made of it
        self._folded = WeakIdKeyDictionary()

    def __deepcopy__(self, memo) -> 'Engine':
        return Engine(self.choice, self.weights)

    def __reduce__(self):
        return Engine, (self.choice, self.weights)

    def _serves(self, x: Tensor) -> bool:
        return (self.whole is None or self.whole.way != DENSE) and serves(x)

    # Where a network meets it ---------------------------------------------------------------------------------------

    def enter(self, x):
        """An image as it enters a spiking backbone; what follows is only noted until a neuron asks for it."""
        if not isinstance(x, Tensor) or isinstance(x, Lazy) or x.dim() != 4 or not self._serves(x):
            return x
        return Lazy.of_values(x, self)

    def notes(self, x: Tensor) -> bool:
        """Whether ``x`` is only noted, so that a norm before a neuron costs nothing of its own."""
        return isinstance(x, Lazy)

    def fire(self, neuron: Neuron, x: Tensor, norm: nn.Module | None) -> Tensor | None:
        """The spikes of ``neuron``, or None where it has to run as it is.

        Args:
            neuron: in evaluation.
            x: its input, or that of ``norm``.
            norm: a batch norm in front of it.
        """
        if neuron.training or not self._serves(x):
            return None
        shape = x.shape
        if not shape or shape[0] % neuron.T or 0 in shape:
            return None
        plan = None
        if norm is not None:
            # in training, or without statistics, it is not the same for every batch
            if norm.training or norm.running_mean is None:
                return None
            known = norm.running_mean, norm.running_var, norm.weight, norm.bias
            plan = handlers.normed(x, *known, norm.eps)
            if plan is None:
                x = F.batch_norm(x, *known, False, 0.0, norm.eps)
        fires = (*_encoded(neuron.settings), neuron.learned().get('tau'))
        lazy = isinstance(x, Lazy)
        if plan is None and lazy:
            plan = x.plan
        if isinstance(plan, Current) and not plan.computed:
            spikes = self._run(plan, neuron.T, fires)
        else:
            dense = plan.dense() if plan is not None else x.numbers() if lazy else x
            spikes = torch.ops.mmsnn.event_lif.default(dense, neuron.T, False, *fires)
        fired = Spikes(spikes, neuron.settings.levels)
        return Lazy.alike(x, fired) if lazy else Lazy(fired, spikes.shape, spikes.stride(), self)

    def current(self, plan: Current) -> Tensor:
        """What a convolution and all behind it give where no neuron follows."""
        return self._run(plan, 1, None)

    # Convolutions -----------------------------------------------------------------------------------------------------

    def _run(self, plan: Current, T: int, fires: tuple | None) -> Tensor:
        """Spikes (with ``fires``), else the current, of ``plan``; on events where that pays."""
        plan.check()
        folded = self._fold(plan)
        stride, padding, dilation, groups = plan.geometry
        add = None if plan.add is None else _addend(plan.add)
        source, outputs = plan.source, len(folded.weight)
        on_events = False
        if isinstance(source, Spikes) and plan.repeat == 1:
            events = int(torch.ops.mmsnn.event_count.default(source.values))
            on_events = self.choice == 'event' or pays(plan, events)
            self.counts.note(plan.weight, events, source.values.numel(), on_events)
        else:
            self.counts.note(plan.weight, None, None, False)
        if on_events:
            kernel = folded.weight.shape[2:]
            # a sum of currents is read again: by its own neuron, and by the next shortcut
            keep = fires is None or (add is not None and add.dtype == torch.float32)
            spikes, current = torch.ops.mmsnn.event_layer.default(
                source.values, folded.rows, folded.shift, add, outputs, kernel, stride, padding, dilation, groups, T,
                *(fires or ([], [], None)), fires is not None, keep,
            )  # fmt: skip
            if keep:
                plan.keep(current)
            return current if fires is None else spikes
        current = F.conv2d(source.dense(), folded.weight, folded.shift, stride, padding, dilation, groups)
        repeat = plan.repeat > 1
        if repeat and (fires is None or add is not None or plan.repeat != T):
            current, repeat = current.repeat(plan.repeat, 1, 1, 1), False
        if add is not None:
            current = current.add_(add)
        if fires is None:
            return current
        if not repeat:
            plan.keep(current)
        return torch.ops.mmsnn.event_lif.default(current, T, repeat, *fires)

    def _fold(self, plan: Current) -> Folded:
        """The weights of a convolution, made again where they have changed."""
        tensors = [plan.weight, *(t for t in (plan.bias, *_tensors(plan.steps)) if t is not None)]
        numbers = tuple(n for step in plan.steps for n in step if isinstance(n, (int, float)))
        by_norm = self._folded.get(plan.weight)
        if by_norm is None:
            by_norm = self._folded[plan.weight] = {}
        key = (tuple(map(id, tensors[1:])), numbers, plan.geometry[3])
        found = by_norm.get(key)
        if found is not None and not found[0].changed(tensors):
            return found[1]
        if found is None and len(by_norm) >= 16:
            # norms that came and went
            by_norm.clear()
        half = self.weights == 'bfloat16'
        made = Watched(tensors), Folded(plan.weight, plan.bias, plan.geometry[3], plan.steps, half)
        by_norm[key] = made
        return made[1]


def _tensors(steps: tuple) -> list[Tensor]:
    return [t for step in steps for t in step if isinstance(t, Tensor)]


def _addend(plan) -> Tensor:
    """What is added to a current: bytes where they are spikes."""
    return plan.values if isinstance(plan, Spikes) else plan.dense()


def serves(x: Tensor) -> bool:
    """Whether an engine may run at all, on ``x``."""
    if torch.compiler.is_compiling():
        return not _say_compiled()
    if torch.is_grad_enabled() or torch.is_autocast_enabled('cpu') or is_transformed():
        return False
    return isinstance(x, Lazy) or (x.dtype == torch.float32 and x.is_cpu)


# called once, while a graph is traced
@torch.compiler.assume_constant_result
def _say_compiled() -> bool:
    print_log(
        'mmsnn.event_driven: torch.compile makes a dense graph of this network. Leave torch.compile out to run on '
        'events, or call event_driven(model, enabled=False) to be rid of this line',
        logger='current',
        level=logging.WARNING,
    )
    return True


@functools.lru_cache(maxsize=1024)
def _encoded(settings: NeuronSettings) -> tuple[list[int], list[float]]:
    """``kind`` and ``values`` of the ops; no surrogate matters."""
    return replace(settings, surrogate='atan', alpha=None).encode()


# The public way -----------------------------------------------------------------------------------------------------


def event_driven(
    model: nn.Module, enabled: bool = True, *, engine: str = 'auto', weights: str = 'float32'
) -> nn.Module:
    """Let a spiking network run on events, in place; returns ``model``.

    In evaluation, without gradients and on a CPU, a convolution behind neurons takes time for the spikes that there are
    alone: it runs together with the norm and the neuron behind it, over all time steps at once, and what lies between
    layers are bytes. Layers whose input is too dense run densely, as does everything that has no form on events;
    `event_report` says which is which. In training, on other devices, under autocast and in graphs of ``torch.compile``
    the network runs as it always does. Its state dict stays the same. Weights that change later are noticed; only an
    edit of single numbers through ``.data`` waits for the next call of ``event_driven``.

    Spikes are those of the dense network, but for neurons that come so close to their thresholds that the order of
    additions decides.

    Args:
        model: a backbone, detector, segmentor or classifier with mmsnn's neurons, or any other network of them.
        enabled: False takes the engine out again.
        engine: ``auto`` chooses layer by layer, by density and width, and times the first calls of ``model`` for each
            size of input both so and densely, to keep to the faster way: like ``torch.backends.cudnn.benchmark``, two
            calls may then differ by rounding. ``event``: every convolution behind neurons on events, whatever its
            density, in every call.
        weights: ``float32``, or ``bfloat16``: convolutions on events read weights of 16 bits, rounded, which halves
            what they read and changes spikes; ``tools/benchmarks/event.py`` times both.

    Raises:
        ValueError: ``model`` has no spiking neurons, or ``engine`` or ``weights`` is unknown.
    """
    if engine not in ENGINES:
        raise ValueError(f'engine must be one of {", ".join(ENGINES)}, got {engine!r}')
    if weights not in WEIGHTS:
        raise ValueError(f'weights must be one of {", ".join(WEIGHTS)}, got {weights!r}')
    parts = [m for m in model.modules() if hasattr(m, 'events') and isinstance(m, TimeAware)]
    if not any(isinstance(m, Neuron) for m in parts):
        raise ValueError(f'{type(model).__name__} has no spiking neuron: nothing in it could run on events')
    made = Engine(engine, weights) if enabled else None
    for part in parts:
        part.events = made
    # Parts of the model may have been event-driven by themselves.
    for part in model.modules():
        for hooks, ours in ((part._forward_hooks, give_numbers), (part._forward_pre_hooks, begin)):
            for key in [k for k, hook in hooks.items() if hook is ours]:
                del hooks[key]
                part._forward_pre_hooks_with_kwargs.pop(key, None)
    if enabled:
        extension.use('cpu')
        if made.whole is not None:
            model.register_forward_pre_hook(begin, with_kwargs=True)
        model.register_forward_hook(give_numbers)
    return model


def begin(module: nn.Module, inputs: tuple, keywords: dict) -> None:
    """Hook of the outermost module: the way of this call is chosen."""
    if module.training or torch.compiler.is_compiling():
        return
    part = _part(module)
    # None where its parts were exchanged, or event-driven in another way, since.
    if part is None or part.events.whole is None:
        return
    # On a small network the general way to look into arguments takes a percent of the time.
    single = not keywords and len(inputs) == 1 and type(inputs[0]) is Tensor
    leaves = inputs if single else tree_leaves((inputs, keywords))
    timing = part.events.whole.timing(leaves, part.T)
    # Where no engine may run there is nothing to choose.
    if timing.dense or any(isinstance(x, Tensor) and x.is_floating_point() and serves(x) for x in leaves):
        part.events.whole.begin(timing)


def give_numbers(module: nn.Module, inputs: tuple, out):
    """Hook of the outermost module: plain tensors come out."""
    engine = engine_of(module)
    whole = None if engine is None else engine.whole
    if whole is None or whole.way != DENSE:
        out = tree_map_only(Lazy, Lazy.numbers, out)
    if whole is not None:
        whole.end()
    return out


def _part(model: nn.Module) -> nn.Module | None:
    """The first part of ``model`` with an engine."""
    # Convolutions have a switch of this name.
    return next((m for m in model.modules() if isinstance(getattr(m, 'events', None), Engine)), None)


def engine_of(model: nn.Module) -> Engine | None:
    """The engine that `event_driven` has put into ``model``."""
    part = _part(model)
    return None if part is None else part.events


def event_report(model: nn.Module) -> EventReport:
    """How each convolution of an event-driven ``model`` ran, and with how many events; the counts start anew.

    Convolutions that are not listed ran as they always do: in no spiking backbone, neck or head, or behind layers that
    have no form on events.

    Raises:
        ValueError: ``model`` is not event-driven.
    """
    engine = engine_of(model)
    if engine is None:
        raise ValueError(f'{type(model).__name__} does not run on events: call mmsnn.event_driven first')
    names = {}
    for name, weight in model.named_parameters(remove_duplicate=True):
        names[name.removesuffix('.weight')] = engine.counts.of(weight)
    report = EventReport((name, counts) for name, counts in names.items() if counts is not None)
    report.timings = tuple(engine.whole.summary()) if engine.whole is not None else ()
    engine.counts.clear()
    return report
