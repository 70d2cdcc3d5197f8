"""Random numbers and batches that depend on a sample's place in the training, and workers that outlive a signal.

The random numbers of iteration i depend only on the seed of the run, the process and i. Dropout and mixup use a
generator that is seeded before every iteration, and the augmentation of a sample uses one that is seeded with the
sample's position in the order of the training, whichever worker loads it. So a checkpoint needs no states of random
generators, neither of processes nor of workers, and the number of workers makes no difference.
"""

import atexit
import functools
import os
import random
import signal
from collections.abc import Iterator

import numpy as np
import torch
from mmengine.dist import get_rank
from torch.utils.data import DataLoader, Dataset, IterableDataset

from .images import UnreadableImage, name_images, noticed
from .unreadable import Unreadable

# Streams of random numbers: one for the model, and one for the data.
MODEL, DATA = 0, 1


def seed_everything(*key: int, devices: bool = True) -> None:
    """Seed Python, NumPy and torch from a key of integers; different keys give independent numbers.

    Args:
        key: the integers.
        devices: whether to seed torch's generators of all devices, which takes longer, instead of only the CPU's.
    """
    words = np.random.SeedSequence([k % 2**32 for k in key]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    (torch.manual_seed if devices else torch.default_generator.manual_seed)(int(words[2]))


class Place(int):
    """The index of a sample with its position in the order of the training: round, batch, place in the batch."""

    place: tuple[int, int, int]

    def __new__(cls, index: int, place: tuple[int, int, int]):
        self = super().__new__(cls, index)
        self.place = place
        return self

    def __reduce__(self):
        return Place, (int(self), self.place)


class PlacedBatches:
    """A batch sampler whose indices are `Place`, and which can skip batches that are done.

    Args:
        batch_sampler: the batch sampler that chooses the samples.

    Attributes:
        round: number of the round over the data, from 0; in a loop by epochs, the epoch.
        done: number of batches that are still to be skipped.
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
    """A dataset that seeds random numbers by the `Place` of a sample; in all else it acts as the inner dataset.

    If an image cannot be read, the next sample replaces it, in every round.

    Args:
        inner: the dataset.
        seed: seed of the training.
        unreadable: the list of images that cannot be read; None ends the training at the first one.
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
        raise ValueError('train_dataloader: none of the images can be read')


@functools.cache
def _leaving() -> torch.Tensor:
    """A flag, in memory that the workers share, that is True when this process is ending."""
    flag = torch.zeros(1, dtype=torch.bool).share_memory_()
    # Python ends the remaining workers by SIGTERM and waits for them after this handler has run.
    atexit.register(flag.fill_, True)
    return flag


class PatientWorker:
    """Initialises a worker that loads data so that it ignores the first SIGTERM, which is meant for the training.

    Slurm and `kill -- -GROUP` send SIGTERM to every process. If a worker died of it, the training would fail before it
    has saved a checkpoint (`InterruptHook`). When the process of the training is ending, the first SIGTERM ends its
    workers as well.

    Args:
        then: a function that is called with the number of the worker; None for none.
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
            # A worker that dies of a signal would have torch report an error.
            os._exit(0)


def patient(loader: DataLoader) -> DataLoader:
    """``loader``, whose workers, if it starts any from now on, are initialised by `PatientWorker`."""
    if loader.num_workers and not isinstance(loader.worker_init_fn, PatientWorker):
        loader.worker_init_fn = PatientWorker(loader.worker_init_fn)
    return loader


def seeded_loader(loader: DataLoader, seed: int, unreadable: Unreadable | None = None) -> DataLoader:
    """``loader`` with `PlacedBatches` of a `SeededDataset`; one whose data have no order stays as it is."""
    if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
        return loader
    names = ('num_workers', 'collate_fn', 'pin_memory', 'timeout', 'worker_init_fn', 'multiprocessing_context')
    names += ('generator', 'prefetch_factor', 'persistent_workers', 'pin_memory_device')
    settings = {name: getattr(loader, name) for name in names if hasattr(loader, name)}
    seeded = SeededDataset(loader.dataset, seed, unreadable)
    return patient(DataLoader(seeded, batch_sampler=PlacedBatches(loader.batch_sampler), **settings))
