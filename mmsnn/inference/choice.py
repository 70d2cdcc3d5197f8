"""What runs on events and what densely: a convolution by its density, a whole network by the time of each way."""

import math
import threading
import time

import torch
from torch import Tensor

from mmsnn.ops import event_reference

from .lazy import Current

# each convolution on events whose density promises to pay; every convolution that can; none
EVENT, ALL, DENSE = WAYS = 'event', 'all', 'dense'
# The first run of each way folds weights and prepares convolutions, and does not count.
TRIALS = WAYS * 3
# After so many calls the ways are timed again, because images and weights change.
AGAIN = 1000
# Both are set by hand, for ``auto``; tools/benchmarks/event.py times its choice against the dense path at several
# densities. The share of events up to which a large convolution is taken to be faster on events:
BREAK_EVEN = 0.33
# and what a pixel of a time step costs beside its events, counted in events.
OVERHEAD = 12


class Choice:
    """Chooses, for each size of input and number of time steps, the way that took less time on the first images.

    What decides is the time of this machine: how much a call costs, how many cores there are, how dense the spikes are.
    """

    def __init__(self):
        self._timings: dict[tuple, Timing] = {}
        self._now = threading.local()

    @property
    def way(self) -> str:
        """How the network of this thread runs at present."""
        return getattr(self._now, 'way', EVENT)

    def timing(self, leaves, T: int) -> 'Timing':
        """Of calls of a network of ``T`` time steps with arguments as ``leaves``."""
        key = T, *size_of(leaves)
        found = self._timings.get(key)
        if found is None:
            shapes = ' and '.join(str(list(leaf.shape)) for leaf in leaves if isinstance(leaf, Tensor))
            found = self._timings.setdefault(key, Timing(f'inputs like {shapes} with T={T}'))
        return found

    def begin(self, timing: 'Timing') -> None:
        """A call begins."""
        self._now.timing, self._now.way, self._now.start = timing, timing.next(), time.perf_counter()

    def end(self) -> None:
        """It has ended."""
        timing = getattr(self._now, 'timing', None)
        if timing is not None:
            timing.note(self._now.way, time.perf_counter() - self._now.start)
            self._now.timing, self._now.way = None, EVENT

    def summary(self) -> list['Timing']:
        """The timings of all sizes that are decided."""
        return [timing for timing in self._timings.values() if timing.way is not None]


class Timing:
    """Seconds of all ways for one size of input.

    Args:
        inputs: which inputs these are, in words.

    Attributes:
        seconds: the least of each way.
        way: the fastest one; None until all are timed.
    """

    def __init__(self, inputs: str = 'inputs'):
        self.inputs = inputs
        self.calls = 0
        self.way: str | None = None
        self.seconds: dict[str, float] = {}

    @property
    def dense(self) -> bool:
        """Whether the next call is certain to run densely."""
        return self.way == DENSE and len(TRIALS) <= self.calls < AGAIN

    def next(self) -> str:
        """The way of the next call."""
        if self.calls >= AGAIN:
            self.calls = 0
        return TRIALS[self.calls] if self.calls < len(TRIALS) else self.way or EVENT

    def note(self, way: str, seconds: float) -> None:
        """One call took ``seconds``."""
        ways = len(WAYS)
        if ways <= self.calls < len(TRIALS):
            least = self.seconds.get(way, math.inf) if self.calls >= 2 * ways else math.inf
            self.seconds[way] = min(least, seconds)
        self.calls += 1
        if self.calls == len(TRIALS):
            # threads that call at once may all have taken the same way
            missing = [place for place in range(2 * ways, 3 * ways) if TRIALS[place] not in self.seconds]
            if missing:
                self.calls = missing[0]
            else:
                self.way = min(WAYS, key=self.seconds.__getitem__)


def size_of(leaves) -> tuple:
    """Inputs that share it take about the same time: elements of all tensors, by powers of two, images and threads."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    elements = sum(t.numel() for t in tensors)
    images = tensors[0].shape[0] if tensors and tensors[0].dim() == 4 else len(tensors)
    return elements.bit_length(), images, torch.get_num_threads()


def pays(plan: Current, events: int) -> bool:
    """Whether ``events`` in the input of a convolution cost less than it does on all elements."""
    weight, groups, source = plan.weight, plan.geometry[3], plan.source.values
    taps, outputs = weight.shape[2] * weight.shape[3], weight.shape[0] // groups
    # The kernels compute whole blocks of outputs.
    width = event_reference.width_of(outputs)
    padded = -(-outputs // width) * width
    pixels = source.numel() // source.shape[1]
    sparse = (events * taps + OVERHEAD * pixels * groups) * padded
    return sparse < BREAK_EVEN * source.numel() * taps * outputs
