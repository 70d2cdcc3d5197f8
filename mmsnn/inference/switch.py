"""Switching a network over to events, and what happens before and after each of its calls."""

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mmsnn.layers.time import TimeAware
from mmsnn.neurons import Neuron
from mmsnn.ops import extension

from .choice import ALL, EVENT
from .engine import Engine, serves
from .outputs import numbers_of
from .report import COMPUTED, EventReport

ENGINES = ('auto', 'event')
WEIGHTS = ('float32', 'bfloat16')


def event_driven(
    model: nn.Module, enabled: bool = True, *, engine: str = 'auto', weights: str = 'float32'
) -> nn.Module:
    """Let a spiking network run on events, in place; returns ``model``.

    In evaluation, without gradients and on a CPU, a convolution behind neurons takes time for the spikes that there are
    alone: it runs together with the norm and the neuron behind it, over all time steps at once, and what lies between
    layers are bytes. Layers whose input is too dense run densely, as does everything that has no form on events;
    `event_report` says which is which. In training, on other devices, under autocast, in graphs of ``torch.compile``
    and while ``torch.jit.trace`` or ``torch.onnx.export`` traces it, the network runs as it always does; compiled parts
    of the network are right, too, but leave ``fullgraph=True`` out. Its state dict stays the same. Weights that change
    later are noticed; only an edit of single numbers through ``.data`` waits for the next call of ``event_driven``.

    Spikes are those of the dense network, but for neurons that come so close to their thresholds that the order of
    additions decides.

    Args:
        model: a backbone, detector, segmentor or classifier with mmsnn's neurons, or any other network of them.
        enabled: False takes the engine out again.
        engine: ``auto`` times the first calls of ``model`` for each size of input in three ways, with all convolutions
            on events, with those whose density and width promise to pay, and densely, and keeps to the fastest: like
            ``torch.backends.cudnn.benchmark``, two calls may then differ by rounding. ``event``: every convolution
            behind neurons on events, whatever its density, in every call.
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
    if module.training or torch.compiler.is_compiling() or torch.jit.is_tracing():
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
    out = numbers_of(out)
    engine = engine_of(module)
    if engine is not None and engine.whole is not None:
        engine.whole.end()
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
    timings = tuple(engine.whole.summary()) if engine.whole is not None else ()
    ways = {timing.way for timing in timings} & {EVENT, ALL} or {EVENT}
    weights = {name.removesuffix('.weight'): p for name, p in model.named_parameters(remove_duplicate=True)}
    counts = {name: engine.counts.of(weight, ways) for name, weight in {**weights, COMPUTED: None}.items()}
    report = EventReport((name, found) for name, found in counts.items() if found is not None)
    report.timings = timings
    engine.counts.clear()
    return report
