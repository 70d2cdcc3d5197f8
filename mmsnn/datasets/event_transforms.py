"""Transforms of event frames ``[T, C, H, W]``: alike for all frames of a sample, drawn from numpy's generator."""

from pathlib import Path

import numpy as np
import torch
import torchvision.transforms.functional as TF
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import PackDetInputs

from mmsnn.registry import TRANSFORMS

from .event_files import read_npz


class EventTransform(BaseTransform):
    """What moves or hides pixels of ``results['img']``, ``[T, C, H, W]``; subclasses fill in `apply`.

    Raises:
        ValueError: the image is no ``[T, C, H, W]``, or there are boxes that the transform cannot move.
    """

    moves_boxes = False

    def transform(self, results: dict) -> dict:
        frames = results['img']
        if frames.ndim != 4:
            raise ValueError(f'{type(self).__name__} takes event frames [T, C, H, W], got {frames.shape}')
        if 'gt_bboxes' in results and not self.moves_boxes:
            raise ValueError(f'{type(self).__name__} does not move boxes: leave it out of the pipeline of a detector')
        results['img'] = np.ascontiguousarray(self.apply(frames, results))
        results['img_shape'] = results['img'].shape[-2:]
        return results

    def apply(self, frames: np.ndarray, results: dict) -> np.ndarray:
        """The frames changed; boxes in ``results`` are changed in place."""
        raise NotImplementedError


@TRANSFORMS.register_module()
class EventResize(EventTransform):
    """Resizes frames, and boxes, to ``size`` (H, W, or one number for both).

    Args:
        size: in pixels.
        mode: of `torch.nn.functional.interpolate`: ``bilinear``, ``nearest``, ``area`` ...
    """

    moves_boxes = True

    def __init__(self, size: int | tuple[int, int], mode: str = 'bilinear'):
        self.size = _pair('EventResize.size', size)
        self.mode = mode

    def apply(self, frames: np.ndarray, results: dict) -> np.ndarray:
        h, w = frames.shape[-2:]
        factor = self.size[1] / w, self.size[0] / h
        if 'gt_bboxes' in results:
            results['gt_bboxes'].rescale_(factor)
        before = results.get('scale_factor', (1.0, 1.0))
        results['scale_factor'] = tuple(a * b for a, b in zip(before, factor))
        return torch.nn.functional.interpolate(torch.from_numpy(frames), self.size, mode=self.mode).numpy()


@TRANSFORMS.register_module()
class EventRandomFlip(EventTransform):
    """Mirrors frames, and boxes, left to right with probability ``prob``."""

    moves_boxes = True

    def __init__(self, prob: float = 0.5):
        self.prob = prob

    def apply(self, frames: np.ndarray, results: dict) -> np.ndarray:
        results['flip'] = bool(np.random.random() < self.prob)
        results['flip_direction'] = 'horizontal' if results['flip'] else None
        if not results['flip']:
            return frames
        if 'gt_bboxes' in results:
            results['gt_bboxes'].flip_(frames.shape[-2:], 'horizontal')
        return frames[..., ::-1]


@TRANSFORMS.register_module()
class EventRandomCrop(EventTransform):
    """A window of ``size`` (H, W, or one number) at a random place of the frames, ``padding`` zeros around them first.

    Raises:
        ValueError: also where the padded frames are smaller than the window.
    """

    def __init__(self, size: int | tuple[int, int], padding: int = 4):
        self.size = _pair('EventRandomCrop.size', size)
        self.padding = padding

    def apply(self, frames: np.ndarray, results: dict) -> np.ndarray:
        frames = np.pad(frames, [(0, 0)] * 2 + [(self.padding,) * 2] * 2)
        room = [have - want for have, want in zip(frames.shape[-2:], self.size)]
        if min(room) < 0:
            raise ValueError(
                f'EventRandomCrop: frames of {frames.shape[-2:]} pixels, padding included, hold no window of size='
                f'{self.size}'
            )
        y, x = (np.random.randint(r + 1) for r in room)
        return frames[..., y : y + self.size[0], x : x + self.size[1]]


@TRANSFORMS.register_module()
class EventRoll(EventTransform):
    """Shifts frames by up to ``shift`` pixels on both axes; what leaves on one side comes in on the other."""

    def __init__(self, shift: int = 5):
        self.shift = shift

    def apply(self, frames: np.ndarray, results: dict) -> np.ndarray:
        return _roll(frames, self.shift)


@TRANSFORMS.register_module()
class EventCutout(EventTransform):
    """Blanks a square of ``length`` pixels, its centre anywhere in the frames (Cutout, DeVries and Taylor, 2017)."""

    def __init__(self, length: int = 16):
        self.length = length

    def apply(self, frames: np.ndarray, results: dict) -> np.ndarray:
        return _cutout(frames, self.length)


@TRANSFORMS.register_module()
class NeuromorphicAugment(EventTransform):
    """Neuromorphic data augmentation (NDA, Li et al., ECCV 2022): roll, rotation, shear or cutout, one of them drawn
    for each sample.

    The defaults are those of the authors' code for CIFAR10-DVS at 48x48 (N-Caltech101 there: 3, 15, 15), which leaves
    cutout out.

    Args:
        roll: up to so many pixels on both axes.
        rotate, shear: up to so many degrees either way; shear along x.
        cutout: side of the blanked square in pixels. 0 leaves an operation out.

    Raises:
        ValueError: nothing is left.
    """

    def __init__(self, roll: int = 5, rotate: float = 30.0, shear: float = 30.0, cutout: int = 0):
        amounts = dict(roll=roll, rotate=rotate, shear=shear, cutout=cutout)
        self.amounts = {name: amount for name, amount in amounts.items() if amount > 0}
        if not self.amounts:
            raise ValueError(f'NeuromorphicAugment: none of {", ".join(amounts)} is above 0')

    def apply(self, frames: np.ndarray, results: dict) -> np.ndarray:
        name = list(self.amounts)[np.random.randint(len(self.amounts))]
        amount = self.amounts[name]
        if name in ('roll', 'cutout'):
            return dict(roll=_roll, cutout=_cutout)[name](frames, amount)
        degrees = float(np.random.uniform(-amount, amount))
        angle, shear = (degrees, 0.0) if name == 'rotate' else (0.0, degrees)
        return TF.affine(torch.from_numpy(frames), angle, [0, 0], 1.0, [shear, 0.0]).numpy()


def _pair(key: str, size) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f'{key} must be a number of pixels or (H, W), got {size!r}')
    return pair


def _roll(frames: np.ndarray, shift: int) -> np.ndarray:
    return np.roll(frames, tuple(np.random.randint(-shift, shift + 1, 2)), axis=(-2, -1))


def _cutout(frames: np.ndarray, length: int) -> np.ndarray:
    frames = frames.copy()
    h, w = frames.shape[-2:]
    top, left = np.random.randint(h) - length // 2, np.random.randint(w) - length // 2
    frames[..., max(top, 0) : max(top + length, 0), max(left, 0) : max(left + length, 0)] = 0
    return frames


@TRANSFORMS.register_module()
class PackEventDetInputs(PackDetInputs):
    """mmdet's PackDetInputs for frames ``[T, C, H, W]``, which it would transpose.

    ``instances`` are among the meta keys, so that mmdet's CocoMetric works without an annotation file.
    """

    def __init__(
        self,
        meta_keys=(
            'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction', 'instances',
        ),
    ):  # fmt: skip
        super().__init__(meta_keys)

    def transform(self, results: dict) -> dict:
        frames = torch.from_numpy(np.ascontiguousarray(results['img']))
        packed = super().transform({key: value for key, value in results.items() if key != 'img'})
        return dict(packed, inputs=frames)


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
            frames = read_npz(path, ['frames'])['frames'].astype(np.float32)
        except ValueError as error:
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
