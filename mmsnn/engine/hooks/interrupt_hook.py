"""Saving a checkpoint when a signal ends a training."""

import logging
import os
import signal
import threading
import weakref

import torch
import torch.distributed as dist
from mmengine.dist import barrier, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from torch.utils.data import DataLoader

from mmsnn.registry import HOOKS

from ..seeding import patient
from .checkpoint_hook import INTERRUPTED

# Signals of Ctrl-C, of schedulers, and of Slurm's warning (sbatch --signal=USR1@60).
SIGNALS = ('SIGINT', 'SIGTERM', 'SIGUSR1')


@HOOKS.register_module()
class InterruptHook(Hook):
    """On SIGINT, SIGTERM or SIGUSR1 the training saves ``interrupted.pth`` after the current iteration and exits.

    ``--resume`` continues from there, also in the middle of an epoch. The exit code is 128 plus the number of the
    signal, as in shells. If there are several processes, a signal to one of them suffices, because they agree after
    every iteration. A second Ctrl-C ends a single process at once. The next regular checkpoint replaces the file.

    The hook needs a checkpoint hook, and mmsnn's loops (`mmsnn.engine.loops`) to resume in the middle of an epoch. Of
    the workers that load data, which may receive the signal as well, those of the training are kept alive by these
    loops, and those of the validation by this hook. Where EMAHook has put averaged weights into the model for a
    validation, they are exchanged back before the checkpoint is saved.
    """

    # It runs after the checkpoint hook.
    priority = 'LOWEST'

    def __init__(self):
        self.number = 0
        self.process = os.getpid()
        self.training = lambda: None
        self.before: dict[int, object] = {}
        self.exchanged: dict[Hook, bool] = {}

    def before_train(self, runner) -> None:
        self._watch_averages(runner)
        validation = getattr(getattr(runner, 'val_loop', None), 'dataloader', None)
        if isinstance(validation, DataLoader):
            patient(validation)
        if threading.current_thread() is not threading.main_thread():
            return
        self.training = weakref.ref(runner)
        for name in SIGNALS:
            number = getattr(signal, name, None)
            if number is not None:
                self.before[number] = signal.signal(number, self._note)

    def after_train(self, runner) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}
        for hook in self.exchanged:
            del hook._swap_ema_parameters
        self.exchanged = {}

    def _watch_averages(self, runner) -> None:
        """Note of every EMAHook whether the model has its averages at present."""

        def watch(hook: Hook, exchange) -> None:
            def counted() -> None:
                exchange()
                self.exchanged[hook] = not self.exchanged[hook]

            self.exchanged[hook] = False
            hook._swap_ema_parameters = counted  # type: ignore[attr-defined]

        for hook in runner.hooks:
            if hasattr(hook, '_swap_ema_parameters'):
                watch(hook, hook._swap_ema_parameters)

    def _note(self, number: int, frame) -> None:
        # Workers that load data inherit this handler, but have nothing to save.
        if os.getpid() != self.process:
            return
        # A training that ended in an error leaves this handler behind, in a notebook for good.
        if not self._runs(frame):
            self.after_train(None)
            signal.raise_signal(number)
            return
        # A launcher may send the signal again to processes that have received it already.
        if self.number == number == signal.SIGINT and get_world_size() == 1:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.number = number
        print_log(
            f'{signal.Signals(number).name}: the training saves a checkpoint after this iteration and exits'
            + ('; Ctrl-C once more ends it at once' if number == signal.SIGINT else ''),
            logger='current',
            level=logging.WARNING,
        )

    def _runs(self, frame) -> bool:
        """Whether the interrupted code is part of the training."""
        runner = self.training()
        while frame is not None and runner is not None:
            if frame.f_code.co_name == 'train' and frame.f_locals.get('self') is runner:
                return True
            frame = frame.f_back
        return False

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._leave(runner, dict(epoch=runner.epoch, iter=runner.iter + 1))

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        # Processes may validate different numbers of batches.
        if not (dist.is_available() and dist.is_initialized()):
            self._leave(runner, dict(epoch=runner.epoch, iter=runner.iter))

    def _leave(self, runner, meta: dict) -> None:
        number = self._agreed()
        if not number:
            return
        for hook, exchanged in self.exchanged.items():
            if exchanged:
                hook._swap_ema_parameters()  # type: ignore[attr-defined]
        folder = runner.work_dir
        runner.save_checkpoint(folder, INTERRUPTED, meta=meta, by_epoch=False)
        print_log(f'saved {folder}/{INTERRUPTED}; --resume continues from it', logger='current', level=logging.WARNING)
        # A launcher ends the other processes as soon as one has exited.
        barrier()
        self.after_train(runner)
        raise SystemExit(128 + number)

    def _agreed(self) -> int:
        """The number of a signal that any of the processes has received; 0 for none."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return self.number
        device = 'cuda' if dist.get_backend() == 'nccl' else 'cpu'
        number = torch.tensor(self.number, device=device)
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        return int(number)
