"""Training loops whose resumed run equals the uninterrupted one, batch by batch and bit by bit.

What is random in iteration i depends on the seed of the run, the process and i alone: dropout and mixup draw from a
generator that is seeded before every iteration, and each sample's augmentation from one that is seeded with the
sample's place in the order of the training, in whichever worker it is loaded. So a checkpoint needs no states of
random generators, neither of the processes nor of their workers, and the number of workers makes no difference.
"""

import atexit
import functools
import random
import signal
from collections.abc import Iterator

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.runner import EpochBasedTrainLoop as EpochBase
from mmengine.runner import IterBasedTrainLoop as IterBase
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mmsnn.registry import LOOPS

from .images import UnreadableImage, name_images, noticed
from .unreadable import Unreadable

# streams of random numbers: of the model, and of the data
MODEL, DATA = 0, 1


def seed_everything(*key: int, devices: bool = True) -> None:
    """Seed Python, NumPy and torch from a key of integers; different keys give independent numbers.

    Args:
        key: the integers.
        devices: whether torch's generators of other devices than the CPU are seeded, too, which takes longer.
    """
    words = np.random.SeedSequence([k % 2**32 for k in key]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    (torch.manual_seed if devices else torch.default_generator.manual_seed)(int(words[2]))


class Place(int):
    """The index of a sample, and where in the order of the training it stands: round, batch, position."""

    place: tuple[int, int, int]

    def __new__(cls, index: int, place: tuple[int, int, int]):
        self = super().__new__(cls, index)
        self.place = place
        return self

    def __reduce__(self):
        return Place, (int(self), self.place)


class PlacedBatches:
    """A batch sampler whose indices know their place, and which can start behind batches that are done.

    Args:
        batch_sampler: the one that chooses the samples.

    Attributes:
        round: of the data, from 0; the epoch in a loop by epochs.
        done: batches that are still to be passed over.
    """

    def __init__(self, batch_sampler):
        self.batch_sampler = batch_sampler
        self.round = 0
        self.done = 0

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __getattr__(self, name: str):
        if name == 'batch_sampler':
            raise AttributeError(name)
        return getattr(self.batch_sampler, name)

    def __iter__(self) -> Iterator[list[Place]]:
        for number, batch in enumerate(self.batch_sampler):
            if self.done:
                self.done -= 1
                continue
            yield [Place(index, (self.round, number, i)) for i, index in enumerate(batch)]


class SeededDataset(Dataset):
    """A dataset whose sample is seeded by its `Place`; to everybody else it is the dataset inside.

    Where an image cannot be read, the next sample takes its place, in this round as in every other.

    Args:
        inner: the dataset.
        seed: of the training.
        unreadable: where such images are written down; without one, the first ends the training.
    """

    def __init__(self, inner: Dataset, seed: int, unreadable: Unreadable | None = None):
        vars(self).update(_inner=inner, _seed=seed, _unreadable=unreadable)
        if unreadable is not None:
            name_images(inner, notice=True)

    def __getattr__(self, name: str):
        if name.startswith('__') or '_inner' not in vars(self):
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __setattr__(self, name: str, value) -> None:
        if name in vars(self):
            vars(self)[name] = value
        else:
            setattr(self._inner, name, value)

    def __len__(self) -> int:
        return len(self._inner)

    def __getitem__(self, index: int):
        if isinstance(index, Place):
            seed_everything(self._seed, get_rank(), DATA, *index.place, devices=False)
        if self._unreadable is None:
            return self._inner[int(index)]
        for step in range(len(self)):
            try:
                sample = self._inner[(int(index) + step) % len(self)]
            except UnreadableImage as error:
                self._unreadable.add(error.path, error.reason)
                continue
            for path, reason in noticed(self._inner):
                self._unreadable.add(path, reason, kept=True)
            return sample
        raise ValueError('train_dataloader: not one image can be read')


@functools.cache
def _leaving() -> torch.Tensor:
    """Whether this process is ending, in memory that its workers see."""
    flag = torch.zeros(1, dtype=torch.bool).share_memory_()
    # before Python ends the workers that are left, by SIGTERM, and waits for them
    atexit.register(flag.fill_, True)
    return flag


class PatientWorker:
    """Start of a worker that loads data: it outlives the first SIGTERM, which ends the training and not its workers.

    Slurm and `kill -- -GROUP` send it to every process. A worker that dies of it takes the training along before that
    has saved (`InterruptHook`). Once the training's process is ending, the first one ends its workers, too.

    Args:
        then: what the loader was to call in the worker, with the worker's number; None for nothing.
    """

    def __init__(self, then=None):
        self.then, self.leaving = then, _leaving()

    def __call__(self, worker: int) -> None:
        signal.signal(signal.SIGTERM, self._note)
        if self.then is not None:
            self.then(worker)

    def _note(self, number: int, _) -> None:
        signal.signal(number, signal.SIG_DFL)
        if self.leaving:
            signal.raise_signal(number)


def seeded_loader(loader: DataLoader, seed: int, unreadable: Unreadable | None = None) -> DataLoader:
    """``loader`` with `PlacedBatches` of a `SeededDataset`; one whose data have no order stays as it is."""
    if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
        return loader
    names = ('num_workers', 'collate_fn', 'pin_memory', 'timeout', 'worker_init_fn', 'multiprocessing_context')
    names += ('generator', 'prefetch_factor', 'persistent_workers', 'pin_memory_device')
    settings = {name: getattr(loader, name) for name in names if hasattr(loader, name)}
    settings['worker_init_fn'] = PatientWorker(loader.worker_init_fn)
    return DataLoader(
        SeededDataset(loader.dataset, seed, unreadable), batch_sampler=PlacedBatches(loader.batch_sampler), **settings
    )


class _Seeded:
    """What both loops share."""

    def __init__(self, runner, dataloader, **kwargs):
        super().__init__(runner, dataloader, **kwargs)
        dataset = self.dataloader.dataset
        self.unreadable = Unreadable(runner.work_dir, len(dataset)) if hasattr(dataset, '__len__') else None
        self.dataloader = seeded_loader(self.dataloader, runner.seed, self.unreadable)

    @property
    def batches(self) -> PlacedBatches | None:
        """The batch sampler; None where the data have no order that could be repeated."""
        found = self.dataloader.batch_sampler
        return found if isinstance(found, PlacedBatches) else None

    def _seed_iteration(self) -> None:
        if self.unreadable is not None:
            self.unreadable.check()
        seed_everything(self.runner.seed, get_rank(), MODEL, self._iter)


@LOOPS.register_module()
class EpochBasedTrainLoop(_Seeded, EpochBase):
    """mmengine's loop by epochs, resumed exactly, also from a checkpoint in the middle of an epoch.

    Raises:
        ValueError: in the middle of an epoch, where the data have no order (iterable datasets).
    """

    def run_epoch(self) -> None:
        """Iterate one epoch, without what of it is done."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        done = max(0, self._iter - self._epoch * len(self.dataloader))
        if self.batches is not None:
            self.batches.round, self.batches.done = self._epoch, done
        elif done:
            raise ValueError(
                f'the checkpoint stands {done} iterations behind the beginning of epoch {self._epoch + 1}, and '
                'train_dataloader has no batch sampler that could go on from there: resume from a checkpoint of the '
                'end of an epoch'
            )
        for index, batch in enumerate(self.dataloader, start=done):
            self._seed_iteration()
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


@LOOPS.register_module()
class IterBasedTrainLoop(_Seeded, IterBase):
    """mmengine's loop by iterations, resumed exactly."""

    def __init__(self, runner, dataloader, **kwargs):
        super().__init__(runner, dataloader, **kwargs)
        self.dataloader_iterator = _Endless(self)

    def run_iter(self, data_batch) -> None:
        """Iterate one batch."""
        self._seed_iteration()
        super().run_iter(data_batch)


class _Endless:
    """Batches without an end: a loader that has come to its end starts again, in the next round's order."""

    def __init__(self, loop: IterBasedTrainLoop):
        self.loop = loop
        self.iterator = None
        self.round = 0

    def __iter__(self) -> '_Endless':
        return self

    def skip_iter(self, count: int) -> None:
        """Go on behind the first ``count`` batches, without loading them."""
        batches = self.loop.batches
        if batches is None:
            for _ in range(count):
                next(self)
            return
        # those of whole rounds included: a sampler's length does not tell whether it ends
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
