"""Checks of the label images of a segmentation dataset, of which a sample is read."""

import os
import os.path as osp
from collections import Counter
from collections.abc import Iterator, Mapping

import mmcv
import numpy as np
from mmengine.registry import TRANSFORMS
from PIL import Image

from mmsnn import listing
from mmsnn.building import type_name
from mmsnn.engine.images import UnreadableImage, image_size, other_size, why

from .data import Data, evaluators, missing_files
from .findings import Finding, error, note, some, unchecked, warning
from .heads import Head

# Number of label images that are read, and number if these contain only a single class.
FEW, MANY = 16, 200
# Faults after which no more are looked for.
ENOUGH = 20


def is_segmentation(data: Data) -> bool:
    """Whether a dataset is one of mmseg's."""
    base = data.bases.get('BaseSegDataset')
    return base is not None and base.__module__.startswith('mmseg.')


def check_labels(data: Data, heads: list[Head], cfg: Mapping, every: bool = False) -> Iterator[Finding]:
    """Findings about the files of a dataset of mmseg, and about a sample of its label images, or all with ``every``."""
    arguments = {key: value for key, value in data.cfg.items() if key not in ('type', '_scope_')}
    samples = data.cls(**{**arguments, 'pipeline': [], 'lazy_init': True}).load_data_list()
    folder = data.path('data_prefix.img_path') or data.root
    if not samples:
        suffix = data.argument('img_suffix', '.jpg')
        yield error(
            f'{data.key}.img_suffix',
            f'no image that ends in {suffix!r} is in {folder}{_endings(folder)}. Set img_suffix to the ending of yours',
        )
        return
    step, samples = data.step('LoadAnnotations'), [sample for sample in samples if sample.get('seg_map_path')]
    if step is None or not samples:
        yield unchecked(data.key, 'its label images, which no LoadAnnotations in the pipeline reads')
        return
    missing = missing_files(sample['seg_map_path'] for sample in samples)
    if missing:
        yield error(
            f'{data.key}.seg_map_suffix',
            f'{len(missing)} of {len(samples)} images have no label image, the first {missing[0]}. Label images have '
            f'the name of their image with seg_map_suffix, {data.argument("seg_map_suffix", ".png")!r}',
            FileNotFoundError,
        )
        return
    if data.classes is None:
        yield unchecked(data.key, 'its label images: the dataset has no classes')
        return
    labels = Labels(data, samples, step, _ignored(data, heads, cfg))
    yield from labels.check((len(samples),) if every else (FEW, MANY), ENOUGH if every else 1)


def _endings(folder: str) -> str:
    with os.scandir(folder) as entries:
        endings = Counter(osp.splitext(entry.name)[1] for entry in entries if entry.is_file())
    return f', but {", ".join(f"{count} in {end!r}" for end, count in endings.most_common(3))}' if endings else ''


def _ignored(data: Data, heads: list[Head], cfg: Mapping) -> dict[str, int]:
    """The ignored values by config key: those of the heads' losses for training, those of the metric otherwise."""
    if data.part == 'train':
        ignored = {f'{head.key}.ignore_index': head.cfg.get('ignore_index', 255) for head in heads}
    else:
        metrics = [(key, metric) for key, metric in evaluators(cfg, data.part) if type_name(metric) == 'IoUMetric']
        ignored = {f'{key}.ignore_index': metric.get('ignore_index', 255) for key, metric in metrics}
    return ignored or {'ignore_index': 255}


class Labels:
    """A sample of the label images of a dataset, as its pipeline loads them.

    Args:
        data: the dataset.
        samples: the dataset's entry for each image.
        step: the config of LoadAnnotations.
        ignored: by config key, the value of pixels that are ignored.
    """

    def __init__(self, data: Data, samples: list[dict], step: Mapping, ignored: dict[str, int]):
        self.data, self.samples, self.ignored = data, samples, ignored
        self.backend = step.get('imdecode_backend', 'pillow')
        with TRANSFORMS.switch_scope_and_registry(data.scope) as registry:
            self.loader = registry.build(step)
        self.pixels, self.mapped, self.read = Counter(), {}, 0
        # the first file with each value
        self.first: dict[int, str] = {}

    def check(self, sizes: tuple[int, ...], enough: int) -> Iterator[Finding]:
        """Findings, the errors first.

        Args:
            sizes: numbers of label images to read, the next one if those so far contain only a single class.
            enough: number of damaged files after which the others are left.
        """
        known: set = set()
        damaged = 0
        for many in sizes:
            for index in sorted(set(np.linspace(0, len(self.samples) - 1, many).astype(int)) - known):
                known.add(index)
                key = 'seg_map_path'
                try:
                    problem = self._add(self.samples[index])
                except UnreadableImage as unreadable:
                    key, problem = 'img_path', str(unreadable)
                if problem:
                    yield error(f'{self.data.key}.data_prefix.{key}', problem)
                    damaged += 1
                    if damaged == enough:
                        return
            if damaged:
                return
            if len(self._used()) > 1 or self._beyond():
                break
        beyond = self._beyond()
        if beyond:
            first = self.first[beyond[0]]
            yield error(self.data.key, f'{self._found()}. {self._remedy(beyond)} (the first with {beyond[0]}: {first})')
        elif len(self._used()) <= 1 and len(self.data.classes) > 1:
            yield from self._single()
        else:
            absent = [name for i, name in enumerate(self.data.classes) if i not in self._used()]
            text = f'; classes that do not occur in these: {some(absent)}' if absent else ''
            yield note(self.data.key, self._found() + text)

    def _add(self, sample: dict) -> str | None:
        """Read a label image; return its fault, if it has one. Raises UnreadableImage for the image that it labels."""
        path = sample['seg_map_path']
        try:
            raw = mmcv.imread(path, flag='unchanged', backend=self.backend)
        # Decoders raise errors of many kinds.
        except Exception as problem:
            return f'{path} cannot be read: {why(path, problem)}'
        if raw is None:
            return f'{path} is not an image'
        raw = raw.squeeze()
        if raw.ndim > 2:
            return self._colours(path, raw)
        image = sample['img_path']
        try:
            width, height = image_size(image)
        except OSError as problem:
            raise UnreadableImage(image, why(image, problem)) from problem
        if raw.shape != (height, width):
            return f'{path}: {other_size(raw.shape, (height, width))}; save it in the size of its image'
        if raw.dtype != np.uint8 and raw.dtype != bool and (raw.min() < 0 or raw.max() > 255):
            return (
                f'{path} has values from {raw.min()} to {raw.max()}, of which mmseg keeps the lowest eight bits: '
                'convert the label images to values below 255'
            )
        loaded = self.loader.transform({**sample, 'seg_fields': []})['gt_seg_map']
        values, where, counts = np.unique(raw.astype(np.uint8), return_index=True, return_counts=True)
        for value, place, count in zip(values.tolist(), where.tolist(), counts.tolist()):
            self.pixels[value] += count
            self.first.setdefault(value, path)
            self.mapped[value] = int(loaded.reshape(-1)[place])
        self.read += 1
        return None

    def _colours(self, path: str, raw: np.ndarray) -> str:
        with Image.open(path) as image:
            palette = image.mode == 'P'
        text = (
            f'{path} has colours ({raw.shape[2]} channels); label images have one channel with the numbers of classes'
        )
        if palette:
            return f'{text}. It has a palette: leave out imdecode_backend={self.backend!r}; pillow reads the numbers'
        if raw.shape[2] > 1 and (raw[..., :1] == raw[..., :3]).all():
            return f'{text}. The channels are equal: save one of them'
        colours = np.unique(raw[..., :3].reshape(-1, min(3, raw.shape[2]))[:, ::-1], axis=0)
        return f'{text}. Convert each colour to a number (it has {len(colours)}: {some(map(tuple, colours.tolist()))})'

    def _used(self) -> set[int]:
        return {m for m in self.mapped.values() if m < len(self.data.classes) and m not in self.ignored.values()}

    def _beyond(self) -> list[int]:
        """Values in the files that are neither a class nor ignored everywhere."""
        number = len(self.data.classes)
        return [
            value
            for value, mapped in sorted(self.mapped.items())
            if mapped >= number and any(mapped != ignored for ignored in self.ignored.values())
        ]

    def _found(self) -> str:
        total = self.pixels.total()
        values = [f'{value} ({count / total:.1%})' for value, count in sorted(self.pixels.items())]
        shown = listing.some(values, 20)
        folder = osp.dirname(self.samples[0]['seg_map_path'])
        number = len(self.data.classes)
        keys = ', '.join(f'{key}={value}' for key, value in self.ignored.items())
        reduced = ' after reduce_zero_label' if self.data.argument('reduce_zero_label', False) else ''
        return (
            f'{self.read} of {len(self.samples)} label images in {folder} were read; they have the values (and shares '
            f'of pixels) {shown}; the {number} classes ({some(self.data.classes, 3)}) are 0 to {number - 1}{reduced}, '
            f'and the ignored value is {keys}'
        )

    def _remedy(self, beyond: list[int]) -> str:
        number, key = len(self.data.classes), self.data.key
        values = set(self.mapped) - set(self.ignored.values())
        reduced = self.data.argument('reduce_zero_label', False)
        if self.samples[0]['seg_map_path'].lower().endswith(('.jpg', '.jpeg')):
            return 'JPEG changes values: save label images as PNG'
        if not reduced and min(values) >= 1 and max(values) == number:
            return (
                f'Classes are counted from 1 in the files: set {key}.reduce_zero_label=True, and that of the other '
                'datasets, or write numbers from 0 into the files'
            )
        if values == {0, beyond[-1]} and number == 2:
            return f'Write 1 instead of {beyond[-1]} into the label images, for {self.data.classes[1]!r}'
        remedy = f'Write the numbers of the classes into the files, and 255 for pixels to ignore: {some(beyond)} '
        remedy += 'is not a class' if len(beyond) == 1 else 'are not classes'
        if len(beyond) == 1:
            keys = ', '.join(f'{name}={beyond[0]}' for name in self.ignored)
            remedy += f'. If {beyond[0]} marks pixels to ignore, set {keys} in heads and evaluators'
        if not reduced and max(values) == number:
            remedy += (
                f'. If 0 is not a class, set {key}.reduce_zero_label=True; if it is one, add its name to the classes '
            )
            remedy += f'and write num_classes={number + 1} in the heads'
        return remedy

    def _single(self) -> Iterator[Finding]:
        """The finding if the whole sample has at most one class."""
        used = [self.data.classes[i] for i in self._used()]
        hidden = [value for value, mapped in self.mapped.items() if mapped in self.ignored.values()]
        text = f'{self._found()}. So {f"{used[0]!r} is the only class" if used else "no class"} that occurs'
        if hidden:
            text += f', and {some(hidden)} is never learned'
            text += f'. If {some(hidden)} marks a class ({self.data.classes[-1]!r}?), write its number into the files'
        yield (error if hidden else warning)(self.data.key, text)
