"""Training loops whose resumed run equals the uninterrupted one, batch by batch and bit by bit."""

import bisect

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop as EpochBase
from mmengine.runner import IterBasedTrainLoop as IterBase

from mmsnn.registry import LOOPS

from .seeding import MODEL, PlacedBatches, seed_everything, seeded_loader
from .unreadable import Unreadable


class _Seeded:
    """Mixin of both loops."""

    def __init__(self, runner, dataloader, **kwargs):
        super().__init__(runner, dataloader, **kwargs)
        dataset = self.dataloader.dataset
        if hasattr(dataset, '__len__') and not len(self.dataloader):
            raise ValueError(
                f'train_dataloader: {len(dataset)} images make no batch: a batch_size above that number with '
                'drop_last=True leaves none'
            )
        self.unreadable = Unreadable(runner.work_dir, len(dataset)) if hasattr(dataset, '__len__') else None
        self.dataloader = seeded_loader(self.dataloader, runner.seed, self.unreadable)

    @property
    def batches(self) -> PlacedBatches | None:
        """The batch sampler; None for data without an order that can be repeated."""
        sampler = self.dataloader.batch_sampler
        return sampler if isinstance(sampler, PlacedBatches) else None

    def run(self) -> torch.nn.Module:
        """Train; a resumed training begins with the validation that came after its checkpoint, if one was due."""
        self.runner.register_hook(_Begins(self), 'LOWEST')
        return super().run()

    def validation_is_due(self) -> bool:
        """Whether the training stands at the end of a part, where a validation belongs."""
        raise NotImplementedError

    def _due(self, at: int, end: int) -> bool:
        interval = self.dynamic_intervals[bisect.bisect(self.dynamic_milestones, at + 1) - 1]
        return at > 0 and at >= self.val_begin and (at % interval == 0 or at == end)

    def _seed_iteration(self) -> None:
        if self.unreadable is not None:
            self.unreadable.check()
        seed_everything(self.runner.seed, get_rank(), MODEL, self._iter)


class _Begins(Hook):
    """Clears the list of unreadable images, and runs the validation that a resumed training was not alive for.

    Checkpoints are saved before the validation of their place, and may not know its outcome. Without it the best
    checkpoint, schedules that wait for a plateau and early stopping would miss a value.
    """

    def __init__(self, loop: _Seeded):
        self.loop = loop

    def before_train(self, runner) -> None:
        if self.loop.unreadable is not None:
            self.loop.unreadable.clear()
        if runner.val_loop is not None and self.loop.validation_is_due():
            runner.val_loop.run()


@LOOPS.register_module()
class EpochBasedTrainLoop(_Seeded, EpochBase):
    """mmengine's loop by epochs with exact resuming, also from a checkpoint in the middle of an epoch.

    Raises:
        ValueError: resuming in the middle of an epoch with data that have no order (iterable datasets).
    """

    def validation_is_due(self) -> bool:
        """Whether the training was resumed at the end of an epoch with a validation."""
        within = self.batches is not None and self._iter > self._epoch * len(self.dataloader)
        return not within and self._due(self._epoch, self.max_epochs)

    def run_epoch(self) -> None:
        """Run one epoch, without the iterations that are done already."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        done = max(0, self._iter - self._epoch * len(self.dataloader))
        if self.batches is not None:
            self.batches.round, self.batches.done = self._epoch, done
        elif done:
            raise ValueError(
                f'the checkpoint was saved {done} iterations after the beginning of epoch {self._epoch + 1}, and '
                'train_dataloader has no batch sampler that could continue from there: resume from a checkpoint of '
                'the end of an epoch'
            )
        for index, batch in enumerate(self.dataloader, start=done):
            self._seed_iteration()
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


@LOOPS.register_module()
class IterBasedTrainLoop(_Seeded, IterBase):
    """mmengine's loop by iterations with exact resuming."""

    def __init__(self, runner, dataloader, **kwargs):
        super().__init__(runner, dataloader, **kwargs)
        self.dataloader_iterator = _Endless(self)

    def validation_is_due(self) -> bool:
        """Whether the training was resumed at an iteration with a validation."""
        return self._due(self._iter, self.max_iters)

    def run_iter(self, data_batch) -> None:
        """Run one iteration."""
        self._seed_iteration()
        super().run_iter(data_batch)


class _Endless:
    """An endless iterator over batches, which starts the loader again at its end, in the order of the next round."""

    def __init__(self, loop: IterBasedTrainLoop):
        self.loop = loop
        self.iterator = None
        self.round = 0

    def __iter__(self) -> '_Endless':
        return self

    def skip_iter(self, count: int) -> None:
        """Skip the first ``count`` batches without loading them."""
        batches = self.loop.batches
        if batches is None:
            for _ in range(count):
                next(self)
            return
        # Whole rounds are skipped in the same way, because the length of a sampler does not tell whether it ends.
        batches.done = count

    def __next__(self):
        if self.iterator is None:
            self.iterator = self._start()
        while True:
            try:
                return next(self.iterator)
            except StopIteration:
                self.round += 1
                self.iterator = self._start()

    def _start(self):
        batches = self.loop.batches
        if batches is not None:
            batches.round = self.round
            set_epoch = getattr(getattr(batches, 'sampler', None), 'set_epoch', None)
            if set_epoch and self.round:
                set_epoch(self.round)
        return iter(self.loop.dataloader)
