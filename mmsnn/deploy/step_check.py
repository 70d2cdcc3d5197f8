"""A network step by step beside the same network at all time steps at once: whether one step can stand for all.

Both get the same random frames. In both, random spikes take the place of those that the neurons would fire, so the
comparison sees every path between neurons even in a network that never fires, and rounding cannot make a neuron fire in
one of the two only. What is compared are the currents into the neurons, and, by the callers, the outputs.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils._python_dispatch import TorchDispatchMode

from mmsnn.layers import get_time_steps, set_time_steps
from mmsnn.ops.layout import potential
from mmsnn.ops.neuron import decode

from .graph import LIF
from .network import Network, encoder_of, sample_like
from .steps import REMEDY, where

# number of time steps of the comparison for networks that have a single one
FEW = 3
# largest number of elements of a current that are compared in each step
MOST = 2**16
# share of elements that may differ, where other operations than neurons round to integers
SHARE = 0.01

RunStep = Callable[[Tensor], tuple[Tensor, ...]]


def check_steps(
    model: nn.Module, sample: Tensor, start: Callable[[], RunStep], neurons: list[Node]
) -> tuple[tuple[Tensor, ...], list[tuple[Tensor, ...]]]:
    """Compare the currents into the neurons, step by step and at all steps at once.

    Args:
        model: the network, which is not changed.
        sample: one step of at least two streams, ``[B, C, H, W]`` or ``[B, 1, C, H, W]``.
        start: returns a function that runs one step after another, from the beginning.
        neurons: the ``mmsnn.lif`` nodes of the graph that it runs, in order.

    Returns:
        The outputs of the network at T steps, and for each of the T steps the outputs of that step; T is the network's
        own, or `FEW` if that is 1.

    Raises:
        ValueError: the currents into a neuron differ; the message names the first. Or the network does not run on
            random frames, or its modules have different T.
    """
    network = Network(model)
    T = get_time_steps(network.model)
    T = T if T > 1 else FEW
    set_time_steps(network, T)
    reports = []
    for inputs, frames, certain in feeds(network, sample, T):
        whole, stepped = _Whole(T), _Stepped(neurons)
        try:
            with torch.no_grad(), whole:
                expected = network(inputs)
        # a network that takes its steps in another form may raise any exception
        except Exception as error:
            said = f'the network cannot run {T} time steps of random frames: {type(error).__name__}: {error}'
            reports.append((-1, said))
            continue
        run, outputs = start(), []
        with torch.no_grad(), stepped:
            for t, frame in enumerate(frames):
                stepped.begin(t, whole)
                outputs.append(run(frame))
        if stepped.fault is None:
            return expected, outputs
        reports.append((stepped.passed, stepped.fault))
        if certain:
            break
    raise ValueError(max(reports, key=lambda report: report[0])[1])


def feeds(network: Network, sample: Tensor, T: int) -> Iterator[tuple[Tensor, list[Tensor], bool]]:
    """The forms in which a network may take T time steps.

    Yields:
        The input of the network at T steps; the T inputs of single steps; whether no other form need be tried if the
        network runs on this one.
    """
    frames = [sample_like(tuple(sample.shape), seed=t).to(sample) for t in range(T)]
    encoded = encoder_of(network) is not None
    if sample.dim() == 5 and sample.shape[1] == 1:
        yield torch.cat(frames, 1), frames, True
    elif encoded and sample.dim() == 4:
        yield torch.stack(frames, 1), frames, True
    # the same image at every step
    yield frames[0], frames[:1] * T, encoded
    # no encoder: time is folded into the first dimension
    yield torch.cat(frames), frames, True


def near(found: Tensor, expected: Tensor) -> bool:
    """Whether two tensors have one shape and, but for rounding in a `SHARE` of them, the same elements."""
    if found.shape != expected.shape:
        return False
    found, expected = found.double(), expected.double()
    sizes = expected.abs()[(expected != 0) & expected.isfinite()]
    scale = sizes.median().item() if sizes.numel() else 0.0
    off = ~torch.isclose(found, expected, rtol=1e-3, atol=1e-6 + 1e-3 * scale, equal_nan=True)
    return int(off.sum()) <= SHARE * off.numel()


def _fired(call: int, step: int, x: Tensor, n: int, levels: int) -> tuple[Tensor, Tensor]:
    """Random spikes and membrane potentials of ``n`` neurons, the same whenever it is asked."""
    random = torch.Generator().manual_seed(call * 10_000 + step)
    spikes = torch.randint(0, levels + 1, (n,), generator=random)
    return spikes.to(x), torch.randn(n, generator=random).to(x)


def _rows(x: Tensor, T: int) -> Tensor:
    """At most `MOST` of the elements of each of T steps."""
    rows = x.reshape(T, -1)
    return rows[:, :: rows.shape[1] // MOST + 1].clone()


class _Neurons(TorchDispatchMode):
    """Runs all operations but neurons as they are; `fire` takes the place of neurons."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is not LIF:
            return function(*args, **(kwargs or {}))
        levels = decode(*args[2:4])[0].levels
        return self.fire(args[0], args[1], levels)


class _Whole(_Neurons):
    """Notes the currents of all T steps into each call of a neuron."""

    def __init__(self, T: int):
        super().__init__()
        self.T = T
        self.calls: list[tuple[int, Tensor]] = []

    def fire(self, x: Tensor, T: int, levels: int) -> tuple[Tensor, Tensor]:
        n = x.numel() // T
        # a call with another T has the currents of no single step of the network
        self.calls.append((n, _rows(x, T) if T == self.T else x.new_full((self.T, 1), torch.nan)))
        spikes, v = zip(*[_fired(len(self.calls), t, x, n, levels) for t in range(T)])
        membrane = potential(x, T, True)
        return torch.cat(spikes).view(x.shape), v[-1].view(membrane.shape).to(membrane)


class _Stepped(_Neurons):
    """Compares the currents of single steps with those of `_Whole`.

    Attributes:
        passed: number of comparisons that were passed.
        fault: what is wrong with the first neuron whose current differs, in words; None if there is none.
    """

    def __init__(self, nodes: list[Node]):
        super().__init__()
        self.nodes = nodes
        self.matches: list[int] = []
        self.passed, self.fault = 0, None

    def begin(self, step: int, whole: _Whole) -> None:
        """Begin the time step ``step``."""
        self.step, self.whole, self.at = step, whole, -1

    def fire(self, x: Tensor, T: int, levels: int) -> tuple[Tensor, Tensor]:
        self.at += 1
        if self.step == 0:
            self.matches.append(self._match(x))
        call = self.matches[self.at]
        if self.fault is None and self._fits(x, call):
            self.passed += 1
        elif self.fault is None:
            self.fault = (
                f'{where(self.nodes[self.at]) or "a neuron of the network"}: run step by step, this neuron gets '
                f'another current in time step {self.step + 1} than in the network that runs {self.whole.T} steps at '
                f'once, so one step cannot stand for all. Something in front of it combines time steps: {REMEDY}'
            )
        spikes, v = _fired(call + 1, self.step, x, x.numel(), levels)
        membrane = potential(x, T, True)
        return spikes.view(x.shape), v.view(membrane.shape).to(membrane)

    def _match(self, x: Tensor) -> int:
        """The call of the whole run that this neuron is; a graph leaves out neurons that nothing reads."""
        first = self.matches[-1] + 1 if self.matches else 0
        calls = range(first, len(self.whole.calls))
        return next((call for call in calls if self._fits(x, call)), first)

    def _fits(self, x: Tensor, call: int) -> bool:
        if call >= len(self.whole.calls):
            return False
        n, rows = self.whole.calls[call]
        return n == x.numel() and near(_rows(x, 1)[0], rows[self.step])
