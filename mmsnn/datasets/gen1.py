"""Prophesee's Gen1 automotive detection dataset, read from the published files."""

from bisect import bisect_left
from pathlib import Path

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.datasets import BaseDetDataset

from mmsnn.registry import DATASETS, TRANSFORMS

# an event is its time in microseconds, then x in bits 0 to 13, y in bits 14 to 27, polarity in bit 28
EVENT = np.dtype([('t', '<u4'), ('xyp', '<u4')])
# the type of external triggers, which are not 2D events
TRIGGERS = 14
# height and width of the sensor
SENSOR = 240, 304
EVENTS, BOXES = '_td.dat', '_bbox.npy'


@DATASETS.register_module()
class Gen1(BaseDetDataset):
    """Gen1 automotive detection (de Tournemire et al., 2020): cars and pedestrians, 240x304, one sample per label time.

    Reads ``data_root/split/**/NAME_td.dat`` with ``NAME_bbox.npy`` as published. Of the events only headers are read;
    `LoadEventWindow` reads the events of a sample.

    Boxes are filtered as in Prophesee's toolbox: the times up to ``skip`` are left out, and so are boxes with a side
    below ``min_side`` or a diagonal below ``min_diagonal``. The remaining boxes are then clipped to the sensor, like
    predictions, which the toolbox does not do. Times without boxes give no sample. mmdet's CocoMetric needs no
    annotation file, because it builds one from the ``instances`` of samples. The toolbox also filters predictions by
    size; CocoMetric does not.

    Args:
        data_root: folder of the data set.
        split: one of its folders, ``train``, ``val`` or ``test``.
        skip: microseconds at the beginning of a recording whose boxes are left out.
        min_side, min_diagonal: smallest side and diagonal of a box in pixels.
        kwargs: as for mmdet's BaseDetDataset.

    Raises:
        FileNotFoundError: there are no recordings, or a recording lacks one of its two files; the message names it.
        ValueError: a file is damaged; the message names it.
    """

    METAINFO = dict(classes=('car', 'pedestrian'), palette=[(220, 20, 60), (0, 0, 142)])

    def __init__(
        self,
        data_root: str,
        split: str = 'train',
        skip: int = 500_000,
        min_side: float = 10,
        min_diagonal: float = 30,
        **kwargs,
    ):
        self.split, self.skip, self.min_side, self.min_diagonal = split, skip, min_side, min_diagonal
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """A dict for each label time; the parent class calls it."""
        folder = Path(self.data_root, self.split).expanduser()
        ends = EVENTS, BOXES
        names = sorted({str(p)[: -len(end)] for end in ends for p in folder.rglob(f'*{end}')})
        if not names:
            raise FileNotFoundError(
                f'dataset.data_root: no recordings (NAME{EVENTS} and NAME{BOXES}) in {folder}. Put the published '
                'folders train, val and test below data_root, unpacked'
            )
        missing = [name + end for name in names for end in ends if not Path(name + end).is_file()]
        if missing:
            raise FileNotFoundError(f'dataset.data_root: {len(missing)} files are missing, the first: {missing[0]}')
        samples = [sample for name in names for sample in self._samples(name)]
        return [dict(sample, img_id=i) for i, sample in enumerate(samples)]

    def _samples(self, name: str) -> list[dict]:
        _, (height, width) = open_dat(name + EVENTS)
        boxes = self.filter_boxes(read_boxes(name + BOXES))
        samples = []
        for time in np.unique(boxes['t']):
            instances = []
            for box in boxes[boxes['t'] == time]:
                x, y, w, h = (float(box[key]) for key in 'xywh')
                corners = [max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))]
                if corners[0] < corners[2] and corners[1] < corners[3]:
                    instances.append(dict(bbox=corners, bbox_label=int(box['class_id']), ignore_flag=0))
            if instances:
                samples.append(
                    dict(
                        img_path=name + EVENTS,
                        time=int(time),
                        height=height,
                        width=width,
                        instances=instances,
                    )
                )
        return samples

    def filter_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """The boxes that are late and large enough."""
        w, h = boxes['w'], boxes['h']
        large = (np.minimum(w, h) >= self.min_side) & (w**2 + h**2 >= self.min_diagonal**2)
        return boxes[large & (boxes['t'] > self.skip)]


def read_boxes(path: str) -> np.ndarray:
    """Boxes of a recording: array of ``t`` (microseconds), ``x``, ``y``, ``w``, ``h`` (pixels) and ``class_id``.

    Raises:
        ValueError: the file is damaged, lacks a field, or contains a class that Gen1 does not have.
    """
    try:
        # the file is mapped, because its header may claim more than it holds
        boxes = np.load(path, mmap_mode='r')
    except (ValueError, EOFError, OverflowError) as error:
        raise ValueError(f'{path} is not a complete .npy file: {error}') from error
    # earlier releases of the data set call the time ts
    fields = {key: key for key in ('t', 'x', 'y', 'w', 'h', 'class_id')}
    names = boxes.dtype.names or ()
    fields['t'] = 't' if 't' in names else 'ts'
    lacking = [field for field in fields.values() if field not in names]
    if lacking:
        raise ValueError(f'{path} has no field {", ".join(lacking)}; it has {", ".join(names) or "none"}')
    out = np.empty(len(boxes), [('t', 'i8'), *((key, 'f4') for key in 'xywh'), ('class_id', 'i8')])
    for key, field in fields.items():
        out[key] = boxes[field]
    unknown = set(out['class_id'].tolist()) - set(range(len(Gen1.METAINFO['classes'])))
    if unknown:
        raise ValueError(f'{path} holds the classes {sorted(unknown)}; Gen1 has 0 (car) and 1 (pedestrian)')
    return out


def open_dat(path: str) -> tuple[np.ndarray, tuple[int, int]]:
    """The events of a ``.dat`` file as a memory map (dtype `EVENT`), and (H, W) of the sensor.

    The file is little-endian: header lines that begin with ``% `` (among them Height and Width), a byte for the type of
    events and a byte for their size, then events of 8 bytes.

    Raises:
        ValueError: there are no events, they have another type, or the last one is incomplete.
    """
    size = dict(zip(('Height', 'Width'), SENSOR))
    with open(path, 'rb') as file:
        headed, start = False, 0
        # read two bytes instead of a line, because the events after the header may contain no end of line
        while file.read(2) == b'% ':
            headed = True
            # a damaged header may contain no end of line either
            words = file.readline(4096).decode('latin-1').split()
            start = file.tell()
            if len(words) > 1 and words[0] in size and words[1].isdigit():
                size[words[0]] = int(words[1])
        file.seek(start)
        # files without a header do not have the bytes for type and size either
        kind, each = (*file.read(2), 0, 0)[:2] if headed else (0, EVENT.itemsize)
        start = file.tell()
        length = file.seek(0, 2) - start
    if each != EVENT.itemsize or kind == TRIGGERS:
        raise ValueError(f'{path} holds events of type {kind} in {each} bytes; expected 2D events of 8 bytes')
    if length <= 0 or length % EVENT.itemsize:
        raise ValueError(f'{path} is truncated: {length} bytes after the header are not whole events of 8 bytes')
    return np.memmap(path, EVENT, 'r', offset=start), (size['Height'], size['Width'])


@TRANSFORMS.register_module()
class LoadEventWindow(BaseTransform):
    """Loads frames ``[T, 2, H, W]`` (counts of each polarity, float32) of the events just before a label time.

    A binary search finds the window, so that little else of the ``.dat`` file is read. Required keys: ``img_path``,
    ``time`` in microseconds. Added keys: ``img``, ``img_shape`` and ``ori_shape`` (H, W), ``scale_factor``.

    Args:
        T: number of frames of equal duration. The defaults are those of Cordone et al. (IJCNN 2022).
        duration: duration of all frames together, in microseconds.

    Raises:
        ValueError: ``T`` is below 1 or a frame shorter than a microsecond; or the file is damaged or ends before the
            window begins, and the message names it.
    """

    def __init__(self, T: int = 5, duration: int = 100_000):
        if T < 1 or duration < T:
            raise ValueError(
                f'LoadEventWindow: T={T} must be at least 1, and duration={duration} at least T microseconds'
            )
        self.T, self.duration = T, duration

    def transform(self, results: dict) -> dict:
        path, end = results['img_path'], results['time']
        begin = end - self.duration
        events, (height, width) = open_dat(path)
        if int(events[-1]['t']) < begin:
            last = events[-1]['t']
            raise ValueError(f'{path} is truncated: it ends at {last} us, before the window of the label at {end} us')
        first, last = (bisect_left(range(len(events)), t, key=lambda i: int(events[i]['t'])) for t in (begin, end))
        window = np.array(events[first:last])
        t = window['t'].astype(np.int64) - begin
        # events may be slightly out of order
        window, t = window[(t >= 0) & (t < self.duration)], t[(t >= 0) & (t < self.duration)]
        x, y, p = window['xyp'] & 0x3FFF, window['xyp'] >> 14 & 0x3FFF, window['xyp'] >> 28 & 1
        if (x >= width).any() or (y >= height).any():
            raise ValueError(f'{path} is damaged: there are events outside of the sensor, {height}x{width} pixels')
        index = ((t * self.T // self.duration * 2 + p) * height + y) * width + x
        frames = np.bincount(index, minlength=self.T * 2 * height * width)
        results.update(
            img=frames.reshape(self.T, 2, height, width).astype(np.float32),
            img_shape=(height, width),
            ori_shape=(height, width),
            scale_factor=(1.0, 1.0),
        )
        return results
