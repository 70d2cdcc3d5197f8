"""The engine of event-driven inference on a CPU: the cost of a network falls with its firing rates."""

import functools
import logging
from dataclasses import replace

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from mmsnn.neurons import Neuron
from mmsnn.ops import NeuronSettings
from mmsnn.ops.transforms import is_transformed

from . import handlers
from .choice import ALL, DENSE, EVENT, Choice, pays
from .lazy import Current, Lazy, Spikes
from .report import LayerCounts
from .weights import Folded, Watched


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
            spikes = self._run(plan, neuron.T, fires, neuron.settings.levels)
            if spikes is None:
                return None
        else:
            dense = plan.dense() if plan is not None else x.numbers() if lazy else x
            if neuron.settings.levels > 1 and not _finite(dense):
                return None
            spikes = torch.ops.mmsnn.event_lif.default(dense, neuron.T, False, *fires)
        fired = Spikes(spikes, neuron.settings.levels)
        return Lazy.alike(x, fired) if lazy else Lazy(fired, spikes.shape, spikes.stride(), self)

    def current(self, plan: Current) -> Tensor:
        """What a convolution and all behind it give where no neuron follows."""
        return self._run(plan, 1, None)

    # Convolutions -----------------------------------------------------------------------------------------------------

    def _run(self, plan: Current, T: int, fires: tuple | None, levels: int = 1) -> Tensor | None:
        """Spikes (with ``fires``), else the current, of ``plan``; on events where that pays.

        None where spikes of several ``levels`` come from a current that is not finite.
        """
        plan.check()
        folded = self._fold(plan)
        stride, padding, dilation, groups = plan.geometry
        add = None if plan.add is None else _addend(plan.add)
        source, outputs = plan.source, len(folded.weight)
        on_events, way = False, EVENT if self.whole is None else self.whole.way
        if isinstance(source, Spikes) and plan.repeat == 1:
            events = int(torch.ops.mmsnn.event_count.default(source.values))
            on_events = folded.finite and (self.whole is None or way == ALL or pays(plan, events))
            if on_events and levels > 1 and add is not None and add.dtype == torch.float32:
                on_events = _finite(add)
            self.counts.note(plan.weight, way, events, source.values.numel(), on_events)
        else:
            self.counts.note(plan.weight, way, None, None, False)
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
        if levels > 1 and not _finite(current):
            return None
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


def _finite(x: Tensor) -> bool:
    """Whether a current has neither NaN, which a neuron of several levels passes on and bytes do not hold, nor inf."""
    # a sum takes less time than a look at each element; where it overflows, the neuron runs as it is
    return bool(x.sum().isfinite())


def serves(x: Tensor) -> bool:
    """Whether an engine may run at all, on ``x``."""
    if torch.compiler.is_compiling():
        return not _say_compiled()
    if torch.is_grad_enabled() or torch.is_autocast_enabled('cpu') or is_transformed() or torch.jit.is_tracing():
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
