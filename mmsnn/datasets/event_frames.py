"""Event classification datasets, prepared by SpikingJelly: CIFAR10-DVS, DVS128 Gesture, N-Caltech101, N-MNIST."""

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
    """The module ``spikingjelly.datasets``; ImportError with the name of the extra if it is missing."""
    try:
        from spikingjelly import datasets
    except ImportError as error:
        raise ImportError(
            "event datasets are read by SpikingJelly: pip install 'mmsnn[spikingjelly]' (or spikingjelly>=2.0)"
        ) from error
    return datasets


class EventFrames(BaseDataset):
    """Frames ``[T, 2, H, W]`` of event streams (counts of each polarity), prepared by SpikingJelly.

    The first use checks that the files on SpikingJelly's list are in ``data_root/download``, extracts them (unless they
    are in ``data_root/extract``, where `mmsnn data n_mnist` puts them), and writes the events of each sample
    (``events_np``) and its frames (``frames_number_T_split_by_...``) beside that folder. Later uses, and other programs
    with SpikingJelly, find them there. A preparation that fails is undone, so that it can be repeated. A sample holds
    the path of its frames, which `LoadEventFrames` reads.

    Args:
        data_root: folder of the data set.
        split: ``train`` or ``test``.
        T: number of frames per sample.
        split_by: ``number`` puts the same number of events into each frame, ``time`` gives frames the same duration.
        download: fetch missing files if SpikingJelly can (CIFAR10-DVS).
        kwargs: as in mmpretrain's BaseDataset (``indices``, ``pipeline`` ...).

    Raises:
        ImportError: SpikingJelly is missing.
        FileNotFoundError: files are missing; the message lists them with their addresses.
        ValueError: a setting is out of range, or a file is damaged; the message names it.
    """

    # name of the class in spikingjelly.datasets
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
            raise ValueError(f'dataset.T must be a number of frames of at least 1, got {T!r}')
        self.split, self.T, self.split_by, self.download = split, T, split_by, download
        super().__init__('', data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """A dict for each sample, sorted by class; the parent class calls it."""
        root = Path(self.data_root).expanduser()
        # one process prepares the files for all; the others do not wait for ever if it fails
        dataset = None
        try:
            if dist.is_main_process():
                dataset = self._prepare(root)
        finally:
            dist.barrier()
        if dataset is None:
            dataset = self._prepare(root)
        files = {}
        for path, _ in dataset.samples:
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
        """The files of a class that belong to the split."""
        return files

    @staticmethod
    def check_raw(folder: Path) -> None:
        """Raise ValueError with the name of a damaged extracted recording, which SpikingJelly would not name."""

    def _options(self) -> dict:
        """Further arguments for SpikingJelly's class."""
        return {}

    def _prepare(self, root: Path):
        """SpikingJelly's dataset, which writes its files if they do not exist yet."""
        jelly = import_spikingjelly()
        source, check, download = getattr(jelly, self.source), self.check_raw, self.download
        unpacked = (root / 'extract').is_dir()

        class Checked(source):
            @classmethod
            def downloadable(cls):
                # without this a damaged file would be fetched again, even if download is False
                return unpacked or (download and source.downloadable())

            @classmethod
            def resource_url_md5(cls):
                return [] if unpacked else source.resource_url_md5()

            @classmethod
            def create_raw_from_extracted(cls, extract_root, raw_root):
                check(extract_root)
                super().create_raw_from_extracted(extract_root, raw_root)

        events = root / 'events_np'
        if not events.exists() and not unpacked:
            require_files(source, root, download)
        products = [events, root / 'extract', root / f'frames_number_{self.T}_split_by_{self.split_by}']
        marks = [path.with_name(f'{path.name}.building') for path in products]
        busy = any(mark.exists() for mark in marks)
        new = [] if busy else [path for path in products + marks if not path.exists()]
        try:
            if not products[2].exists():
                # SpikingJelly unpacks files of any claimed size
                for path in sorted(events.rglob('*.npz')):
                    check_claim(path)
            return Checked(root, data_type='frame', frames_number=self.T, split_by=self.split_by, **self._options())
        except BaseException as error:
            reason = None
            if isinstance(error, Exception) and events.exists() and not marks[0].exists():
                reason = first_unreadable(jelly, events, self.T, self.split_by, source.get_H_W())
            # after FileExistsError the files belong to another process that has just begun
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

    There is no official split, and results on different splits are not comparable: ``tebn`` in particular gives higher
    accuracies than random splits, as a note in SpikingJelly says.

    Args:
        order: which tenth of each class is the test split: ``number``, the last by the number in the file name (900 to
            999); ``name``, the last by file name as text, as in SpikingJelly's ``split_to_train_test_set(0.9, ...)``;
            ``tebn``, the first by number (0 to 99; Duan et al., NeurIPS 2022).
        data_root, split, kwargs: as for `EventFrames`.
    """

    METAINFO = dict(classes=CIFAR10_CATEGORIES)
    source = 'CIFAR10DVS'

    def __init__(self, data_root: str, split: str = 'train', order: str = 'number', **kwargs):
        _check_choice('order', order, ('number', 'name', 'tebn'))
        self.order = order
        super().__init__(data_root, split, **kwargs)

    def choose(self, files: list[str], label: int) -> list[str]:
        """Nine tenths of a class are for training, one tenth is for testing."""
        test = len(files) // 10
        if self.order == 'tebn':
            return files[test:] if self.split == 'train' else files[:test]
        if self.order == 'name':
            files = sorted(files)
        train = len(files) - test
        return files[:train] if self.split == 'train' else files[train:]

    @staticmethod
    def check_raw(folder: Path) -> None:
        """Check AEDAT 2 files: a header of lines that begin with #, then 8 bytes per event."""
        for path in sorted(folder.rglob('*.aedat')):
            with open(path, 'rb') as file:
                check_records(path, file, skip_header(file), 8)


@DATASETS.register_module()
class NCaltech101(EventFrames):
    """N-Caltech101 (Orchard et al., Frontiers in Neuroscience 2015): 101 classes, named as their folders, 180x240.

    There is no official split. A random tenth of each class is the test split.

    Args:
        seed: seed of the split.
        data_root, split, kwargs: as for `EventFrames`.
    """

    source = 'NCaltech101'

    def __init__(self, data_root: str, split: str = 'train', seed: int = 0, **kwargs):
        self.seed = seed
        super().__init__(data_root, split, **kwargs)

    def labels(self, folders) -> dict[str, int]:
        """Class index of each folder, in alphabetical order."""
        self._metainfo['classes'] = tuple(sorted(folders))
        return super().labels(folders)

    def choose(self, files: list[str], label: int) -> list[str]:
        """Nine tenths of a class are for training, one tenth is for testing, drawn by a generator for each class."""
        order = np.random.default_rng([self.seed, label]).permutation(len(files))
        train = len(files) - len(files) // 10
        chosen = order[:train] if self.split == 'train' else order[train:]
        return [files[i] for i in sorted(chosen)]

    @staticmethod
    def check_raw(folder: Path) -> None:
        """Check ATIS files: 5 bytes per event and no header."""
        # rglob does not enter links to folders
        for path in sorted({*folder.rglob('*.bin'), *folder.glob('*/*/*.bin')}):
            with open(path, 'rb') as file:
                check_records(path, file, 0, 5)


@DATASETS.register_module()
class NMNIST(EventFrames):
    """N-MNIST (Orchard et al., Frontiers in Neuroscience 2015): 10 digits, 34x34, 60,000 and 10,000 recordings.

    The official split, which is that of MNIST. Arguments are those of `EventFrames`.
    """

    METAINFO = dict(classes=tuple('0123456789'))
    source = 'NMNIST'
    check_raw = staticmethod(NCaltech101.check_raw)

    def _options(self) -> dict:
        return dict(train=self.split == 'train')


@DATASETS.register_module()
class DVS128Gesture(EventFrames):
    """DVS128 Gesture (Amir et al., CVPR 2017): 11 classes, 128x128, with its official split by persons.

    SpikingJelly extracts 1176 samples for training and 288 for testing. Arguments are those of `EventFrames`.
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
        """Class index of each folder, whose name is that number."""
        return {name: int(name) for name in folders}

    @staticmethod
    def check_raw(folder: Path) -> None:
        """Check AEDAT 3.1 files: a header of lines that begin with #, then packets of a 28-byte header and events."""
        for path in sorted(folder.rglob('*.aedat')):
            whole, last = read_packets(path)
            labels = path.with_name(f'{path.stem}_labels.csv')
            end = 0
            if labels.is_file():
                # the columns are class, start and end of each trial in microseconds
                end = np.loadtxt(labels, delimiter=',', skiprows=1, ndmin=2)[:, 1 if whole else 2].max(initial=0)
            if last is None or last < end:
                raise ValueError(f'{path} is truncated: its events end before its last labelled gesture')
