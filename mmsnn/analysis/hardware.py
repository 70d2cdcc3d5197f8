"""The energy of operations and memory accesses, for a spiking network, its ANN twin and a quantised ANN."""

import math
from dataclasses import asdict, dataclass

from rich.table import Table

# Energy of one 32-bit floating-point operation in 45 nm (Horowitz, ISSCC 2014), in picojoules.
MAC_PJ = 4.6
AC_PJ = 0.9
# The same for integers: an 8-bit multiplication and a 32-bit addition.
MULTIPLY8_PJ = 0.2
ADD32_PJ = 0.1
# Energy of moving one bit to or from memory, the value of STEP (NeurIPS 2025) and SpikingJelly 2.0.0.
BIT_PJ = 3.12
STATE_BITS = 32
# Bits of an input element of a layer.
SPIKE_BITS, INTEGER_BITS, ANALOG_BITS = 1, 8, 32


@dataclass(frozen=True)
class Arithmetic:
    """Costs of one kind of arithmetic.

    Attributes:
        name: name in tables.
        weight_bits: bits of a weight in memory.
        mac_pj, ac_pj: energy of one multiply-accumulate and of one accumulation, in picojoules.
    """

    name: str
    weight_bits: int
    mac_pj: float
    ac_pj: float


def quantised(bits: int) -> Arithmetic:
    """Integer arithmetic with 8-bit weights and ``bits``-bit activations.

    The energy of a multiplication is proportional to ``bits``; sums have 32 bits.
    """
    return Arithmetic(f'8-bit weights, {bits}-bit activations', 8, MULTIPLY8_PJ * bits / 8 + ADD32_PJ, ADD32_PJ)


FP32 = Arithmetic('fp32', 32, MAC_PJ, AC_PJ)


@dataclass(frozen=True)
class Cost:
    """Energy per image in microjoules, and the bytes moved per image.

    Attributes:
        name: name of the network and its arithmetic.
        compute: energy of multiply-accumulates and accumulations.
        weights, activations, membranes: energy of the memory accesses for each of them.
        bytes: bytes moved for each of these three.
    """

    name: str
    compute: float
    weights: float
    activations: float
    membranes: float
    bytes: dict[str, float]

    @property
    def total(self) -> float:
        """Energy of computation and memory accesses."""
        return self.compute + self.weights + self.activations + self.membranes


@dataclass(frozen=True)
class Comparison:
    """A spiking network (the student) compared with its ANN twin, in floating point and quantised; energies per image.

    One model of memory applies to all: an operation reads its weight (nothing is kept in registers), the input of a
    layer is written once and read once, and a membrane potential is read and written at every time step. Spikes have 1
    bit, sums of spikes 8, membrane potentials 32, and other values 32 (8 in the 8-bit student, ``bits`` in the
    quantised ANN). Buffers, addresses, caches, and the zeros of the ANN's ReLU are not modelled.

    Attributes:
        bits: bits of the quantised ANN's activations, which have as many levels as T steps of the student.
        student, twin: costs in fp32.
        student8, twin8: costs with 8-bit weights and integer arithmetic.
        rate: firing rate of the student.
        crossover, crossover8: the firing rate at which the student would cost as much as its twin, in fp32 and
            quantised, if the spikes of all layers were scaled by one factor; None if there is no such rate.
    """

    bits: int
    student: Cost
    twin: Cost
    student8: Cost
    twin8: Cost
    rate: float
    crossover: float | None
    crossover8: float | None

    @property
    def costs(self) -> tuple[Cost, ...]:
        """The costs of all four networks."""
        return self.student, self.twin, self.student8, self.twin8

    def as_dict(self) -> dict:
        """All results in a form that JSON can hold."""
        costs = {c.name: asdict(c) | dict(total=c.total) for c in self.costs}
        return dict(
            bits=self.bits,
            rate=self.rate,
            crossover=self.crossover,
            crossover_quantised=self.crossover8,
            picojoules_per_bit=BIT_PJ,
            networks=costs,
        )

    def table(self, milliseconds: dict[str, float | None] | None = None) -> Table:
        """The comparison as a table for ``rich.print``.

        Args:
            milliseconds: measured times per image by name, for the caption; None as a time means "not run".
        """
        table = Table(
            title='Energy per image with memory accesses (µJ)',
            caption=' '.join(
                [
                    f"45 nm, {BIT_PJ} pJ per bit moved. An operation reads its weight, a layer's input is written and "
                    "read once, a membrane is read and written at every step. Quantised: 8-bit weights; the ANN's "
                    f'activations have {self.bits} bits, as many levels as T steps have.',
                    self._says(self.crossover, 'fp32'),
                    self._says(self.crossover8, 'quantised'),
                    *([_clock(milliseconds)] if milliseconds else []),
                ]
            ),
            caption_justify='left',
        )
        table.add_column('network', overflow='fold', min_width=20)
        for name in ('compute', 'weights', 'activations', 'membranes', 'total'):
            table.add_column(name, justify='right', no_wrap=True)
        table.add_column('MB moved', justify='right', no_wrap=True)
        for c in self.costs:
            values = (c.compute, c.weights, c.activations, c.membranes, c.total)
            table.add_row(c.name, *(f'{v:.2f}' for v in values), f'{sum(c.bytes.values()) / 1e6:.2f}')
        return table

    def _says(self, crossover: float | None, kind: str) -> str:
        if not self.rate:
            return f'Crossover with the {kind} twin: none, there are no spikes.'
        where = 'at no firing rate' if crossover is None else f'at a firing rate of {crossover:.1%}'
        return f'As expensive as the {kind} twin {where} (now {self.rate:.1%}).'


def _clock(milliseconds: dict[str, float | None]) -> str:
    shown = ', '.join(f'{name} {"not run" if ms is None else f"{ms:.2f} ms"}' for name, ms in milliseconds.items())
    return f'This machine takes, per image: {shown}.'


def levels_in_bits(levels: int) -> int:
    """Number of bits that represent the integers 0 to ``levels``."""
    return max(1, math.ceil(math.log2(levels + 1)))


def compare(report, levels: int = 1) -> Comparison:
    """The comparison for an `EnergyReport`; ``levels`` is the largest integer of its neurons (I-LIF's D)."""
    bits = levels_in_bits(report.T * levels)
    small = quantised(bits)
    rate = report.firing_rates.mean
    costs = [
        _student(report, FP32),
        _twin(report, FP32, ANALOG_BITS),
        _student(report, quantised(INTEGER_BITS)),
        _twin(report, small, bits),
    ]
    crossings = [_crossover(report, *pair) for pair in ((costs[0], costs[1], FP32), (costs[2], costs[3], small))]
    return Comparison(bits, *costs, rate, *(None if c is None else c * rate for c in crossings))


def _cost(name: str, compute_pj: float, weights: float, activations: float, membranes: float) -> Cost:
    """A `Cost` from picojoules of computation and numbers of bits moved."""
    bits = dict(weights=weights, activations=activations, membranes=membranes)
    energies = {key: value * BIT_PJ * 1e-6 for key, value in bits.items()}
    return Cost(name, compute_pj * 1e-6, **energies, bytes={key: value / 8 for key, value in bits.items()})


def _student(report, kind: Arithmetic) -> Cost:
    acs, macs = report.total('acs'), report.total('macs')
    largest = ANALOG_BITS if kind is FP32 else INTEGER_BITS
    activations = sum(2 * layer.inputs * min(layer.input_bits, largest) for layer in report.layers)
    name = f'SNN, T={report.T}, {"fp32" if kind is FP32 else "8-bit weights"}'
    membranes = 2 * report.neuron_updates * STATE_BITS
    return _cost(name, acs * kind.ac_pj + macs * kind.mac_pj, (acs + macs) * kind.weight_bits, activations, membranes)


def _twin(report, kind: Arithmetic, bits: int) -> Cost:
    macs = report.total('twin_macs')
    activations = 2 * report.total('twin_inputs') * bits
    return _cost(f'ANN twin, {kind.name}', macs * kind.mac_pj, macs * kind.weight_bits, activations, 0)


def _crossover(report, student: Cost, twin: Cost, kind: Arithmetic) -> float | None:
    """The factor on the number of spikes with which the student would cost as much as its twin; None without one."""
    events = report.total('acs') * (kind.ac_pj + kind.weight_bits * BIT_PJ) * 1e-6
    left = twin.total - (student.total - events)
    return left / events if events and left > 0 else None
