"""How often the neurons fire while a network is trained, and which of them never do."""

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
    """Counts spikes now and then, and warns of layers that are silent; ``tools/train.py`` adds it to every run.

    The first ``window`` iterations of every ``interval`` are measured, in all processes together. The log line then
    shows ``firing_rate``, spikes per neuron and time step, and ``silent_channels``, the share of channels that did not
    fire in the window, over the whole network. The values of every layer stand in ``vis_data/firing_rates.json``, a
    line a window, and go to visualisers such as TensorBoard. A layer in which not one neuron fired, or next to none, is
    named in a warning, once, with what to do.

    Between the windows it costs nothing; within one, a sum over the spikes of each layer. Of a Distiller it watches the
    student; a network without neurons it leaves alone. Where mmengine compiles the training step, the iterations of a
    window run as plain PyTorch.

    Args:
        interval: iterations from the beginning of one window to the next.
        window: iterations of a window.

    Raises:
        ValueError: not ``1 <= window <= interval``.
    """

    priority = 'NORMAL'

    def __init__(self, interval: int = 500, window: int = 10):
        if not 1 <= window <= interval:
            raise ValueError(f'FiringRateHook: window must lie in 1 to interval={interval}, got {window}')
        self.interval, self.window = interval, window
        self.counter: SpikeCounter | None = None
        self.measured = 0
        # layers that were called silent already
        self.named: set[str] = set()

    def before_train(self, runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        # a Distiller's layers go by the student's names, also where FSDP has to see it as it is
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
        # something stopped the training inside a window
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
                said += ' Some wake by themselves: silent_channels in the log falls, then.'
            print_log(said, logger='current', level=logging.WARNING)

    @staticmethod
    def _write(runner, rates: FiringRates, step: int, iterations: int) -> None:
        """The values of every layer, where no tool that reads mmengine's scalars stumbles over them."""
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
