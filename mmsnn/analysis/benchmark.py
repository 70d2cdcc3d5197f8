"""Speed, memory, firing rates and energy of a model on its test set."""

import copy
import importlib.util
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from statistics import median

import torch
from mmengine.runner.amp import autocast
from rich.progress import track
from rich.table import Table
from torch import nn

from mmsnn.inference.switch import engine_of, event_driven
from mmsnn.neurons import FiringRates

from .energy import EnergyReport, count_energy
from .forward import Batch, images_in, run, watching


@dataclass(frozen=True)
class Benchmark:
    """The result of `benchmark`.

    Attributes:
        device: name of the device.
        batch_size: images in a full batch.
        images_per_second: median over batches, without data loading; on events where the model runs on them.
        peak_memory_mib: on a GPU the peak memory of tensors, otherwise the largest resident size of the process; None
            if the system does not report it.
        milliseconds: time per image: ``dense`` without the event engine, ``events`` with it (None for a model that is
            not event-driven).
        energy: synaptic operations and energy compared with the ANN twin, and the firing rates.
    """

    device: str
    batch_size: int
    images_per_second: float
    peak_memory_mib: float | None
    milliseconds: dict[str, float | None]
    energy: EnergyReport

    @property
    def firing_rates(self) -> FiringRates:
        """Mean spikes per neuron and time step, by layer, and which layers are silent; empty for an ANN."""
        return self.energy.firing_rates

    def as_dict(self) -> dict:
        """All results in a form that JSON can hold."""
        rates = self.firing_rates
        return dict(
            vars(self),
            firing_rates=dict(rates),
            silent_layers=rates.silent,
            silent_channels=rates.silent_channels,
            energy=self.energy.as_dict(),
        )

    def tables(self) -> Iterator[Table]:
        """The results as tables for ``rich.print``."""
        speed = Table(title=f'Speed and memory on {self.device}, batches of {self.batch_size}')
        speed.add_column('images per second', justify='right')
        speed.add_column('peak memory (MiB)', justify='right')
        memory = '?' if self.peak_memory_mib is None else f'{self.peak_memory_mib:.0f}'
        speed.add_row(f'{self.images_per_second:.2f}', memory)
        yield speed
        if self.firing_rates:
            yield self.firing_rates.table()
        yield self.energy.table()
        if self.energy.comparison:
            yield self.energy.comparison.table(self.milliseconds)


def benchmark(
    model: nn.Module,
    loader: Iterable[Batch],
    *,
    warmup: int = 5,
    timed: int = 30,
    counted: int = 10,
    amp: bool = False,
) -> Benchmark:
    """Measure ``model`` on batches of ``loader``, with progress bars.

    The time is that of ``model.test_step``: data preprocessing, forward and post-processing, but not data loading.

    Args:
        model: a task model.
        loader: a data loader with a length, e.g. that of the test set; it starts again if it has too few batches.
        warmup: number of batches that run before the timing.
        timed: number of batches that are timed.
        counted: number of batches over which firing rates and energy are averaged.
        amp: whether autocast is on during the timing.

    Raises:
        ValueError: ``loader`` is empty.
    """
    if not len(loader):
        raise ValueError('the data loader has no batches to measure')
    device = next(model.parameters()).device

    def measure(network: nn.Module, title: str) -> tuple[float, int]:
        return _speed(network, islice(_endless(loader), warmup + timed), warmup, timed, amp, title)

    speed, size = measure(model, 'measuring speed')
    memory = peak_memory(device)
    clock = dict(dense=1e3 / speed, events=None)
    if engine_of(model) is not None:
        # a copy, because any part of the model may be event-driven
        dense = event_driven(copy.deepcopy(model), enabled=False)
        clock = dict(dense=1e3 / measure(dense, 'measuring speed without events')[0], events=1e3 / speed)
    counted = min(counted, len(loader))
    energy = count_energy(model, track(islice(loader, counted), 'counting spikes and operations', total=counted))
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
    return Benchmark(name, size, speed, memory, clock, energy)


def _speed(model, stream, warmup: int, timed: int, amp: bool, title: str) -> tuple[float, int]:
    """Images per second, median over the batches behind ``warmup``, and the size of the largest batch."""
    device = next(model.parameters()).device
    on_gpu, speeds, sizes = device.type == 'cuda', [], []
    with watching(model, (), None), autocast(enabled=amp):
        for i, batch in enumerate(track(stream, title, total=warmup + timed)):
            if i == warmup and on_gpu:
                torch.cuda.reset_peak_memory_stats(device)
            size = images_in(batch)
            start = _now(on_gpu)
            run(model, batch)
            if i >= warmup:
                speeds.append(size / (_now(on_gpu) - start))
            sizes.append(size)
    return median(speeds), max(sizes)


def _endless(loader: Iterable[Batch]) -> Iterator[Batch]:
    while True:
        yield from loader


def _now(on_gpu: bool) -> float:
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory(device: torch.device) -> float | None:
    """Peak memory in MiB: of tensors on a GPU, else the largest resident size of the process; None where unknown."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Windows does not have this module.
    if importlib.util.find_spec('resource') is None:
        return None
    import resource

    # The unit is bytes on macOS and KiB elsewhere.
    unit = 2**20 if sys.platform == 'darwin' else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
