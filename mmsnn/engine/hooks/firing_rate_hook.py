"""Measuring firing rates during a training, and warning of silent layers."""

import json
import logging
from dataclasses import asdict
from pathlib import Path

from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.visualization import LocalVisBackend

from mmsnn.models.wrapper import Transparent
from mmsnn.neurons import FiringRates, SpikeCounter
from mmsnn.registry import HOOKS


@HOOKS.register_module()
class FiringRateHook(Hook):
    """Counts spikes at intervals and warns of silent layers; ``tools/train.py`` adds it to every training.

    The first ``window`` iterations of every ``interval`` are measured, over all processes together. The log line then
    shows two values for the whole network: ``firing_rate``, the spikes per neuron and time step, and
    ``silent_channels``, the share of channels that did not fire in the window. The values of every layer are written to
    ``vis_data/firing_rates.json``, one line per window, and sent to visualisers such as TensorBoard. A warning names
    each layer once in which no neuron or hardly any neuron fired, with remedies.

    The hook costs nothing between windows, and one sum over the spikes of each layer within a window. In a Distiller it
    measures the student; without neurons it does nothing. If mmengine compiles the training step, the iterations of a
    window run as plain PyTorch.

    Args:
        interval: number of iterations from the beginning of one window to that of the next.
        window: number of iterations of a window.

    Raises:
        ValueError: ``1 <= window <= interval`` does not hold.
    """

    priority = 'NORMAL'

    def __init__(self, interval: int = 500, window: int = 10):
        if not 1 <= window <= interval:
            raise ValueError(f'FiringRateHook: window must lie in 1 to interval={interval}, got {window}')
        self.interval, self.window = interval, window
        self.counter: SpikeCounter | None = None
        self.measured = 0
        # Names of layers that a warning has named.
        self.named: set[str] = set()

    def before_train(self, runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        # Layers of a Distiller get the student's names, even if FSDP needs the names with the wrapper.
        showing = [m for m in model.modules() if isinstance(m, Transparent) and m.shows_itself]
        for module in showing:
            module.shows_itself = False
        counter = SpikeCounter(model)
        for module in showing:
            module.shows_itself = True
        self.counter = counter if len(counter) else None
        self.start, self.measured = runner.iter, 0

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        if self.counter is not None and (runner.iter - self.start) % self.interval < self.window:
            self.counter.__enter__()

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self.counter is None or not self.counter.counting:
            return
        self.counter.__exit__(None, None, None)
        self.measured += 1
        if self.measured == self.window or runner.iter + 1 == runner.max_iters:
            self._report(runner, runner.iter + 1)

    def after_train(self, runner) -> None:
        # The training may have been stopped within a window.
        if self.measured:
            self._report(runner, runner.iter)

    def _report(self, runner, step: int) -> None:
        rates = self.counter.rates(all_gather_object(self.counter.counts()))
        self.counter.reset()
        iterations, self.measured = self.measured, 0
        if not rates:
            return
        for key, value in dict(firing_rate=rates.mean, silent_channels=rates.silent_channels).items():
            runner.message_hub.update_scalar(f'train/{key}', value, resumed=False)
        if is_main_process():
            self._write(runner, rates, step, iterations)
        fresh = [name for name in (*rates.silent, *rates.nearly_silent) if name not in self.named]
        self.named.update(fresh)
        if fresh:
            said = f'In {iterations} training iterations {rates.warning(fresh)}'
            if step - self.start <= self.window:
                said += ' Some may begin to fire by themselves; silent_channels in the log then decreases.'
            print_log(said, logger='current', level=logging.WARNING)

    @staticmethod
    def _write(runner, rates: FiringRates, step: int, iterations: int) -> None:
        """Write the values of every layer into a file of their own, which tools for mmengine's scalars do not read."""
        layers = {name: asdict(layer) for name, layer in rates.layers.items()}
        folder = Path(runner.log_dir) / 'vis_data'
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / 'firing_rates.json').open('a') as file:
            file.write(json.dumps(dict(step=step, iterations=iterations, layers=layers)) + '\n')
        scalars = {f'firing_rate/{name}': v.rate for name, v in rates.layers.items()}
        scalars.update({f'silent_channels/{n}': v.silent_channels / v.channels for n, v in rates.layers.items()})
        for backend in runner.visualizer._vis_backends.values():
            if not isinstance(backend, LocalVisBackend):
                backend.add_scalars(scalars, step=step)
