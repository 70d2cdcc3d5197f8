"""Event classification through SpikingJelly's datasets: CIFAR10-DVS, DVS128 Gesture, N-Caltech101."""

import shutil
from pathlib import Path

import numpy as np
from mmengine import dist
from mmpretrain.datasets import BaseDataset
from mmpretrain.datasets.categories import CIFAR10_CATEGORIES

from mmsnn.registry import DATASETS

from .event_files import (
    check_claim,
    check_records,
    first_unreadable,
    numbered,
    read_packets,
    require_files,
    skip_header,
)

SPLITS = ('train', 'test')


def import_spikingjelly():
    """SpikingJelly's datasets; ImportError with the name of the extra where it is missing."""
    try:
        from spikingjelly import datasets
    except ImportError as error:
        raise ImportError(
            "event datasets are read by SpikingJelly: pip install 'mmsnn[spikingjelly]' (or spikingjelly>=2.0)"
        ) from error
    return datasets


class EventFrames(BaseDataset):
    """Frames ``[T, 2, H, W]`` of event streams (counts of each polarity), which SpikingJelly prepares.

    The first use checks the files in ``data_root/download`` against SpikingJelly's list, extracts them, and writes the
    events of each sample (``events_np``) and its frames (``frames_number_T_split_by_...``) beside that folder; later
    uses, and other programs with SpikingJelly, find them there. A preparation that fails is undone, so that it can be
    repeated. A sample names the file of its frames; `LoadEventFrames` reads it.

    Args:
        data_root: the set's folder.
        split: ``train`` or ``test``.
        T: frames a sample.
        split_by: frames of as many events each (``number``), or of equal duration (``time``).
        download: fetch what is missing in ``download``, where SpikingJelly can (CIFAR10-DVS).
        kwargs: as in mmpretrain's BaseDataset (``indices``, ``pipeline`` ...).

    Raises:
        ImportError: no SpikingJelly.
        FileNotFoundError: files are missing; the message says which, and where SpikingJelly has them from.
        ValueError: a setting is out of range, or a file is damaged, which the message names.
    """

    # the class in spikingjelly.datasets
    source = ''

    def __init__(
        self,
        data_root: str,
        split: str = 'train',
        T: int = 10,
        split_by: str = 'number',
        download: bool = False,
        **kwargs,
    ):
        _check_choice('split', split, SPLITS)
        _check_choice('split_by', split_by, ('number', 'time'))
        if not isinstance(T, int) or T < 1:
            raise ValueError(f'dataset.T must be a number of frames, at least 1, got {T!r}')
        self.split, self.T, self.split_by, self.download = split, T, split_by, download
        super().__init__('', data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """One dict a sample, class after class; called by the parent."""
        root = Path(self.data_root).expanduser()
        # one process prepares what the others then find; where it fails they do not wait
        found = None
        try:
            if dist.is_main_process():
                found = self._prepare(root)
        finally:
            dist.barrier()
        if found is None:
            found = self._prepare(root)
        files = {}
        for path, _ in found.samples:
            files.setdefault(Path(path).parent.name, []).append(path)
        labels = self.labels(files)
        return [
            dict(img_path=path, gt_label=labels[folder])
            for folder in sorted(files, key=labels.get)
            for path in self.choose(sorted(files[folder], key=numbered), labels[folder])
        ]

    def labels(self, folders) -> dict[str, int]:
        """Class index of each folder."""
        return {name: self.CLASSES.index(name) for name in folders}

    def choose(self, files: list[str], label: int) -> list[str]:
        """Those files of a class that belong to the split."""
        return files

    @staticmethod
    def check_raw(folder: Path) -> None:
        """ValueError with the file's name where an extracted recording is damaged; SpikingJelly would not name it."""

    def _options(self) -> dict:
        """Further arguments of SpikingJelly's class."""
        return {}

    def _prepare(self, root: Path):
        """SpikingJelly's dataset, its files written where they are not there yet."""
        jelly = import_spikingjelly()
        source, check, download = getattr(jelly, self.source), self.check_raw, self.download

        class Checked(source):
            @classmethod
            def downloadable(cls):
                # a damaged file would be fetched again unasked
                return download and source.downloadable()

            @classmethod
            def create_raw_from_extracted(cls, extract_root, raw_root):
                check(extract_root)
                super().create_raw_from_extracted(extract_root, raw_root)

        events = root / 'events_np'
        if not events.exists():
            require_files(source, root, download)
        products = [events, root / 'extract', root / f'frames_number_{self.T}_split_by_{self.split_by}']
        marks = [path.with_name(f'{path.name}.building') for path in products]
        busy = any(mark.exists() for mark in marks)
        new = [] if busy else [path for path in products + marks if not path.exists()]
        try:
            if not products[2].exists():
                # SpikingJelly unpacks what they claim
                for path in sorted(events.rglob('*.npz')):
                    check_claim(path)
            return Checked(root, data_type='frame', frames_number=self.T, split_by=self.split_by, **self._options())
        except BaseException as error:
            reason = None
            if isinstance(error, Exception) and events.exists() and not marks[0].exists():
                reason = first_unreadable(jelly, events, self.T, self.split_by, source.get_H_W())
            # where another process has just begun, what is there is its work
            for path in [] if isinstance(error, FileExistsError) else new:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            if not isinstance(error, Exception):
                raise
            raise ValueError(f'dataset.data_root: {root} could not be prepared: {reason or error}') from error


def _check_choice(key: str, value, choices) -> None:
    if value not in choices:
        raise ValueError(f'dataset.{key} must be one of {", ".join(choices)}, got {value!r}')


@DATASETS.register_module()
class CIFAR10DVS(EventFrames):
    """CIFAR10-DVS (Li et al., Frontiers in Neuroscience 2017): 10 classes, 1000 recordings each, 128x128.

    There is no official split, and results on different ones are not comparable: ``tebn`` in particular gives higher
    accuracies than random splits (a note in SpikingJelly).

    Args:
        order: which tenth of each class is tested: ``number``, the last by the number in its name (900 to 999);
            ``name``, the last by name as text, as SpikingJelly's ``split_to_train_test_set(0.9, ...)`` chooses;
            ``tebn``, the first by number (0 to 99; Duan et al., NeurIPS 2022).
        data_root, kwargs: as for `EventFrames`.
    """

    METAINFO = dict(classes=CIFAR10_CATEGORIES)
    source = 'CIFAR10DVS'

    def __init__(self, data_root: str, split: str = 'train', order: str = 'number', **kwargs):
        _check_choice('order', order, ('number', 'name', 'tebn'))
        self.order = order
        super().__init__(data_root, split, **kwargs)

    def choose(self, files: list[str], label: int) -> list[str]:
        """Nine tenths for training, one for testing."""
        test = len(files) // 10
        if self.order == 'tebn':
            return files[test:] if self.split == 'train' else files[:test]
        if self.order == 'name':
            files = sorted(files)
        train = len(files) - test
        return files[:train] if self.split == 'train' else files[train:]

    @staticmethod
    def check_raw(folder: Path) -> None:
        """AEDAT 2: a header of lines that begin with #, then 8 bytes an event."""
        for path in sorted(folder.rglob('*.aedat')):
            with open(path, 'rb') as file:
                check_records(path, file, skip_header(file), 8)


@DATASETS.register_module()
class NCaltech101(EventFrames):
    """N-Caltech101 (Orchard et al., Frontiers in Neuroscience 2015): 101 folders, 180x240; the class names are theirs.

    There is no official split. A tenth of each class, drawn by ``seed``, is tested.

    Args:
        seed: of the split.
        data_root, kwargs: as for `EventFrames`.
    """

    source = 'NCaltech101'

    def __init__(self, data_root: str, split: str = 'train', seed: int = 0, **kwargs):
        self.seed = seed
        super().__init__(data_root, split, **kwargs)

    def labels(self, folders) -> dict[str, int]:
        """Class index of each folder, by name."""
        self._metainfo['classes'] = tuple(sorted(folders))
        return super().labels(folders)

    def choose(self, files: list[str], label: int) -> list[str]:
        """Nine tenths for training, one for testing; a generator for each class."""
        order = np.random.default_rng([self.seed, label]).permutation(len(files))
        train = len(files) - len(files) // 10
        chosen = order[:train] if self.split == 'train' else order[train:]
        return [files[i] for i in sorted(chosen)]

    @staticmethod
    def check_raw(folder: Path) -> None:
        """ATIS: nothing but 5 bytes an event."""
        for path in sorted(folder.rglob('*.bin')):
            with open(path, 'rb') as file:
                check_records(path, file, 0, 5)


@DATASETS.register_module()
class DVS128Gesture(EventFrames):
    """DVS128 Gesture (Amir et al., CVPR 2017): 11 classes, 128x128, with its official split by persons.

    SpikingJelly finds 1176 samples for training and 288 for testing.
    """

    METAINFO = dict(
        classes=(
            'hand clapping', 'right hand wave', 'left hand wave', 'right arm clockwise', 'right arm counter clockwise',
            'left arm clockwise', 'left arm counter clockwise', 'arm roll', 'air drums', 'air guitar', 'other gestures',
        )
    )  # fmt: skip
    source = 'DVS128Gesture'

    def _options(self) -> dict:
        return dict(train=self.split == 'train')

    def labels(self, folders) -> dict[str, int]:
        """Folders are named 0 to 10; by name, 10 would come before 2."""
        return {name: int(name) for name in folders}

    @staticmethod
    def check_raw(folder: Path) -> None:
        """AEDAT 3.1: a header of lines that begin with #, then packets of 28 bytes and their events."""
        for path in sorted(folder.rglob('*.aedat')):
            whole, last = read_packets(path)
            labels = path.with_name(f'{path.stem}_labels.csv')
            end = 0
            if labels.is_file():
                # class, start and end of each trial in microseconds
                end = np.loadtxt(labels, delimiter=',', skiprows=1, ndmin=2)[:, 1 if whole else 2].max(initial=0)
            if last is None or last < end:
                raise ValueError(f'{path} is truncated: its events end before its last labelled gesture')
