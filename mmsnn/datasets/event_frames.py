"""Event classification through SpikingJelly's datasets: CIFAR10-DVS, DVS128 Gesture, N-Caltech101."""

import re
import shutil
import struct
import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import dist
from mmpretrain.datasets import BaseDataset
from mmpretrain.datasets.categories import CIFAR10_CATEGORIES

from mmsnn.registry import DATASETS, TRANSFORMS

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


def numbered(path: str) -> list:
    """Sorting key that reads the numbers in a file's name: 9 before 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', Path(path).name)]


def require_files(source, root: Path, download: bool) -> None:
    """FileNotFoundError with SpikingJelly's list of files and addresses unless they lie in ``root/download``."""
    folder = root / 'download'
    lines, missing = [], False
    for name, url, md5 in source.resource_url_md5():
        there = (folder / name).is_file()
        missing |= not there
        lines.append(f'  {"present" if there else "MISSING"}  {name}  {url}  md5 {md5}')
    if not missing:
        return
    if download and source.downloadable():
        root.mkdir(parents=True, exist_ok=True)
        return
    remedy = 'Put these files there'
    if source.downloadable():
        remedy += ', or set dataset.download=True to have SpikingJelly fetch them'
    raise FileNotFoundError(f'dataset.data_root: files are missing in {folder}. {remedy}:\n' + '\n'.join(lines))


def first_unreadable(jelly, folder: Path, T: int, split_by: str, size: tuple[int, int]) -> str | None:
    """The first file of events that does not give frames, and why."""
    for path in sorted(folder.rglob('*.npz')):
        try:
            with np.load(path) as content:
                events = {key: content[key] for key in 'txyp'}
            jelly.integrate_events_by_fixed_frames_number(events, split_by, T, *size)
        # whatever a damaged archive or a recording without events makes of it
        except Exception as error:
            return (
                f'{path} gives no {T} frames ({error}). Is it damaged? Remove {folder}, and it is written again. Or '
                "are there times without events? Then dataset.split_by='number' helps"
            )
    return None


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
                _check_records(path, file, skip_header(file), 8)


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
                _check_records(path, file, 0, 5)


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


def skip_header(file) -> int:
    """Length in bytes of the lines at the beginning that start with #; the file stands behind them."""
    length = 0
    while file.read(1) == b'#':
        length += 1 + len(file.readline())
    file.seek(length)
    return length


def _check_records(path: Path, file, header: int, size: int) -> None:
    """ValueError unless whole records, and at least one, follow the header."""
    length = file.seek(0, 2) - header
    if length <= 0 or length % size:
        raise ValueError(f'{path} is truncated: {length} bytes behind the header are no whole events of {size} bytes')


def read_packets(path: Path) -> tuple[bool, int | None]:
    """Whether an AEDAT 3.1 file ends with a packet, and the last event's time in microseconds; reads headers only.

    Raises:
        ValueError: it ends in the middle of an event or of a packet's header.
    """
    last, whole = None, True
    with open(path, 'rb') as file:
        end = file.seek(0, 2)
        file.seek(0)
        skip_header(file)
        while whole and (header := file.read(28)):
            if len(header) < 28:
                raise ValueError(f'{path} is truncated: it ends in the header of a packet')
            kind, _, size, _, overflow, count, _, _ = struct.unpack('<HHIIIIII', header)
            start = file.tell()
            whole = start + count * size <= end
            kept = count if whole else (end - start) // max(size, 1)
            if not whole and (end - start) % max(size, 1):
                raise ValueError(f'{path} is truncated: it ends in an event')
            # type 1 is polarity events: address, time
            if kind == 1 and kept:
                file.seek(start + (kept - 1) * size + 4)
                last = struct.unpack('<I', file.read(4))[0] | overflow << 31
            file.seek(start + kept * size)
    return whole, last


@TRANSFORMS.register_module()
class LoadEventFrames(BaseTransform):
    """Frames ``[T, 2, H, W]`` in float32 from the ``.npz`` file that a sample of `EventFrames` names.

    Required key: ``img_path``. Added keys: ``img``, ``img_shape`` and ``ori_shape`` (H, W), ``scale_factor``.

    Args:
        first: keep this many frames from the beginning; None for all.

    Raises:
        ValueError: the file is damaged, holds no event, or has fewer frames than ``first``; the message names it.
    """

    def __init__(self, first: int | None = None):
        self.first = first

    def transform(self, results: dict) -> dict:
        path = results['img_path']
        try:
            with np.load(path) as content:
                frames = content['frames'].astype(np.float32)
        except (ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
            folder = next((p for p in Path(path).parents if p.name.startswith('frames_')), Path(path).parent)
            raise ValueError(
                f'{path} holds no frames ({error}). Is it damaged? Remove {folder}, and it is written again'
            ) from error
        if frames.ndim != 4 or len(frames) < (self.first or 1):
            raise ValueError(f'{path}: expected frames [T, 2, H, W], T at least {self.first or 1}, got {frames.shape}')
        if not frames.any():
            raise ValueError(f'{path} holds no event: was the recording behind it whole?')
        results.update(
            img=frames[: self.first],
            img_shape=frames.shape[-2:],
            ori_shape=frames.shape[-2:],
            scale_factor=(1.0, 1.0),
        )
        return results
