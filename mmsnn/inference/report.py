"""Which convolution ran on events, and how many there were."""

from dataclasses import dataclass

from rich.table import Table
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from .choice import ALL, DENSE, EVENT, Timing


@dataclass
class ConvCounts:
    """What one convolution has seen since the counts were last cleared.

    Attributes:
        events: elements of its input that were not zero.
        elements: elements of its input.
        calls: times it ran.
        on_events: times it ran on events.
    """

    events: int = 0
    elements: int = 0
    calls: int = 0
    on_events: int = 0

    @property
    def density(self) -> float | None:
        """Share of the input that was not zero; None where the input was no map of spikes."""
        return self.events / self.elements if self.elements else None

    @property
    def how(self) -> str:
        """``event``, ``dense``, or ``both`` where it was now this, now that."""
        return 'event' if self.on_events == self.calls else 'both' if self.on_events else 'dense'


SAID = {EVENT: 'on events where that promises to pay', ALL: 'all on events', DENSE: 'densely as a whole'}
# Stands for convolutions whose weights are made anew in every call, by parametrizations, pruning or weight norm.
COMPUTED = 'computed weights'


class LayerCounts:
    """`ConvCounts` of every convolution, found by its weight, for each way in which ``engine='auto'`` runs.

    Those of convolutions whose weights are no parameters are together, under the key None.
    """

    def __init__(self):
        self.clear()

    def note(self, weight: Tensor, way: str, events: int | None, elements: int | None, on_events: bool) -> None:
        """One call of the convolution of ``weight``; ``events`` is None where its input was no spikes."""
        kept, key = (self._counts[way], weight) if isinstance(weight, nn.Parameter) else (self._computed, way)
        counts = kept.get(key)
        if counts is None:
            counts = kept[key] = ConvCounts()
        counts.events += events or 0
        counts.elements += elements or 0
        counts.calls += 1
        counts.on_events += on_events

    def clear(self) -> None:
        """Forget what was counted."""
        self._counts, self._computed = {way: WeakIdKeyDictionary() for way in (EVENT, ALL)}, {}

    def of(self, weight: Tensor | None, ways: set[str]) -> ConvCounts | None:
        """The counts of one convolution in some ways; None if it did not run."""
        found = [self._computed.get(way) if weight is None else self._counts[way].get(weight) for way in ways]
        each = [(c.events, c.elements, c.calls, c.on_events) for c in found if c is not None]
        return ConvCounts(*map(sum, zip(*each))) if each else None


class EventReport(dict):
    """`ConvCounts` of the convolutions that ran since `event_driven` or the last report, by name.

    Those whose weights are made anew in every call are together, as ``computed weights``. Where ``engine='auto'`` has
    decided for a way, its calls in that way count, and not those in which it tried the others.

    Calls in which ``engine='auto'`` ran the whole network densely count nothing.

    Attributes:
        timings: for each size of input and number of time steps that ``engine='auto'`` has decided about, the
            `mmsnn.inference.choice.Timing`.
    """

    timings: tuple[Timing, ...] = ()

    @property
    def density(self) -> float:
        """Share of all convolutions' spiking inputs that was not zero."""
        elements = sum(counts.elements for counts in self.values())
        return sum(counts.events for counts in self.values()) / elements if elements else 0.0

    def table(self) -> Table:
        """For ``rich.print``."""
        caption = f'mean density of spiking inputs {self.density:.1%}'
        for timing in self.timings:
            seconds = ', '.join(f'{timing.seconds[way] * 1e3:.1f} ms {said}' for way, said in SAID.items())
            caption += f'; {timing.inputs} run {SAID[timing.way]}, since that was fastest: {seconds}'
        table = Table(title='Event-driven', caption=caption)
        table.add_column('convolution', overflow='fold', min_width=20)
        table.add_column('runs')
        table.add_column('density of its input', justify='right')
        for name, counts in self.items():
            density = 'no spikes' if counts.density is None else f'{counts.density:.2%}'
            table.add_row(name, counts.how, density)
        return table
