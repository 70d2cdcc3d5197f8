"""Testing with several numbers of time steps or thresholds of early exit: accuracy, energy and time of each."""

import json
import time
from numbers import Real
from pathlib import Path
from statistics import mean

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from mmsnn.analysis import benchmark
from mmsnn.analysis.forward import images_in
from mmsnn.layers import get_time_steps, set_time_steps

from .early_exit import EarlyExit

# Number of significant digits in tables.
DIGITS = 4


def sweep_time_steps(runner, model: nn.Module, steps: list[int]) -> list[dict]:
    """Test ``model`` with each number of time steps; return a row of metrics, firing rate, energy and time for each.

    It also prints the table and writes ``time_steps.json`` into the work dir.
    """
    rows = []
    for T in steps:
        set_time_steps(model, T)
        runner.logger.info(f'T={T}')
        metrics = runner.test()
        measured = benchmark(model, runner.test_dataloader, amp=runner.test_loop.fp16)
        energy, compared = measured.energy, measured.energy.comparison
        rows.append(
            dict(
                T=T,
                **_plain(metrics),
                firing_rate=measured.firing_rates.mean,
                energy_uj=energy.total('energy_uj'),
                energy_with_memory_uj=compared.student.total,
                share_of_the_twin=energy.ratio,
                ms_per_image=measured.milliseconds['dense'],
                ms_per_image_events=measured.milliseconds['events'],
            )
        )
    note = (
        'Energy: of synaptic operations, and with memory accesses (45 nm, fp32); ms_per_image: this machine, '
        f'{measured.device}, batches of {measured.batch_size}, median over batches, one T after the other.'
    )
    _tell(runner, 'Accuracy, energy and time against T', rows, note, 'time_steps.json')
    return rows


def sweep_exits(runner, model: nn.Module, confidences: list[float]) -> list[dict]:
    """Test ``model`` with all time steps, and with early exit at each confidence; return a row of metrics for each.

    A row also has the mean number of time steps and the time. The function prints the table and writes
    ``early_exit.json`` into the work dir.
    """
    T, plain, rows = get_time_steps(model), model.test_step, []
    for confidence in [None, *confidences]:
        exits = None if confidence is None else EarlyExit(model, confidence)
        clock = _Clock(plain if exits is None else exits.test_step)
        model.test_step = clock
        runner.logger.info('all steps' if exits is None else f'early exit at a confidence of {confidence}')
        try:
            metrics = runner.test()
        finally:
            del model.test_step
        steps = exits.steps if exits else [T]
        row = dict(exit_confidence=confidence, **_plain(metrics), mean_T=mean(steps), ms_per_image=clock.milliseconds)
        rows.append(row | {f'left_after_{t}': steps.count(t) / len(steps) for t in range(1, T + 1)})
    note = (
        f'Images leave when their largest score reaches the confidence, or after T={T} steps. ms_per_image: this '
        'machine, mean over the test set without its first batch, including preprocessing but not data loading.'
    )
    _tell(runner, 'Accuracy and mean number of time steps with early exit', rows, note, 'early_exit.json')
    return rows


class _Clock:
    """A ``test_step`` that measures its time."""

    def __init__(self, test_step):
        self.test_step, self.taken = test_step, []

    def __call__(self, data):
        self._wait()
        start = time.perf_counter()
        out = self.test_step(data)
        self._wait()
        self.taken.append((time.perf_counter() - start, images_in(data)))
        return out

    @staticmethod
    def _wait() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    @property
    def milliseconds(self) -> float:
        """Milliseconds per image, without the first batch unless it is the only one."""
        taken = self.taken[1:] or self.taken
        return 1e3 * sum(seconds for seconds, _ in taken) / sum(count for _, count in taken)


def _plain(metrics: dict) -> dict[str, float]:
    return {key: float(value) for key, value in metrics.items() if isinstance(value, Real)}


def _tell(runner, title: str, rows: list[dict], note: str, file: str) -> None:
    path = Path(runner.work_dir) / file
    cfg = runner.cfg
    head = dict(config=cfg.filename, checkpoint=cfg.load_from, note=note)
    path.write_text(json.dumps(head | dict(rows=rows), indent=1))
    table = Table(title=title, caption=note, caption_justify='left')
    for key in rows[0]:
        table.add_column(key.replace('_', ' '), justify='right', overflow='fold')
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)
    runner.logger.info(f'Written to {path}')


def _cell(value) -> str:
    if value is None:
        return '-'
    return f'{value:.{DIGITS}g}' if isinstance(value, float) else str(value)
