"""Transforms of event frames ``[T, C, H, W]``, the same for all frames of a sample; they use numpy's generator."""

from pathlib import Path

import numpy as np
import torch
import torchvision.transforms.functional as TF
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import PackDetInputs

from mmsnn.registry import TRANSFORMS

from .event_files import read_npz


class EventTransform(BaseTransform):
    """Base of transforms that move or hide pixels of ``results['img']``, ``[T, C, H, W]``; subclasses define `apply`.

    Raises:
        ValueError: the image is not ``[T, C, H, W]``, or there are boxes and the transform cannot move them.
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
        """Returns the transformed frames, and changes boxes in ``results`` in place."""
        raise NotImplementedError


@TRANSFORMS.register_module()
class EventResize(EventTransform):
    """Resizes frames, and boxes, to ``size``.

    Args:
        size: (H, W) in pixels, or one number for both.
        mode: mode of `torch.nn.functional.interpolate`: ``bilinear``, ``nearest``, ``area`` ...

    Raises:
        ValueError: ``size`` is not positive, or not one or two numbers.
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
    """Pads frames with ``padding`` zeros on each side, and crops a window at a random position.

    Args:
        size: (H, W) of the window in pixels, or one number for both.
        padding: pixels on each side.

    Raises:
        ValueError: the padded frames are smaller than the window, or as for `EventTransform`.
    """

    def __init__(self, size: int | tuple[int, int], padding: int = 4):
        self.size = _pair('EventRandomCrop.size', size)
        self.padding = padding

    def apply(self, frames: np.ndarray, results: dict) -> np.ndarray:
        frames = np.pad(frames, [(0, 0)] * 2 + [(self.padding,) * 2] * 2)
        room = [have - want for have, want in zip(frames.shape[-2:], self.size)]
        if min(room) < 0:
            raise ValueError(
                f'EventRandomCrop: frames of {frames.shape[-2:]} pixels, padding included, have no room for size='
                f'{self.size}'
            )
        y, x = (np.random.randint(r + 1) for r in room)
        return frames[..., y : y + self.size[0], x : x + self.size[1]]


@TRANSFORMS.register_module()
class EventRoll(EventTransform):
    """Shifts frames by up to ``shift`` pixels on both axes; pixels that leave on one side enter on the other."""

    def __init__(self, shift: int = 5):
        self.shift = shift

    def apply(self, frames: np.ndarray, results: dict) -> np.ndarray:
        return _roll(frames, self.shift)


@TRANSFORMS.register_module()
class EventCutout(EventTransform):
    """Sets a square with sides of ``length`` pixels and a random centre to 0 (Cutout, DeVries and Taylor, 2017)."""

    def __init__(self, length: int = 16):
        self.length = length

    def apply(self, frames: np.ndarray, results: dict) -> np.ndarray:
        return _cutout(frames, self.length)


@TRANSFORMS.register_module()
class NeuromorphicAugment(EventTransform):
    """Neuromorphic data augmentation (NDA, Li et al., ECCV 2022): a random one of roll, rotation, shear and cutout.

    The defaults are those of the authors' code for CIFAR10-DVS at 48x48, which has no cutout. For N-Caltech101 that
    code uses 3, 15 and 15.

    Args:
        roll: largest shift in pixels on both axes. For this and all other arguments, 0 switches the operation off.
        rotate, shear: largest angle in degrees in either direction; shear is along x.
        cutout: side of the blanked square in pixels.

    Raises:
        ValueError: all operations are switched off.
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
    """mmdet's PackDetInputs for frames ``[T, C, H, W]``, which are not transposed.

    ``instances`` is one of the meta keys, so that mmdet's CocoMetric works without an annotation file.
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
    """Loads frames ``[T, 2, H, W]`` in float32 from the ``.npz`` file of a sample of `EventFrames`.

    Required key: ``img_path``. Added keys: ``img``, ``img_shape`` and ``ori_shape`` (H, W), ``scale_factor``.

    Args:
        first: number of frames to keep from the beginning; None keeps all.

    Raises:
        ValueError: the file is damaged, has no events, or has fewer frames than ``first``; the message names it.
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
                f'{path} holds no frames ({error}). If it is damaged, remove {folder}, and it is written again'
            ) from error
        if frames.ndim != 4 or len(frames) < (self.first or 1):
            raise ValueError(f'{path}: expected frames [T, 2, H, W], T at least {self.first or 1}, got {frames.shape}')
        if not frames.any():
            raise ValueError(f'{path} holds no events: the recording that it was made from may be incomplete')
        results.update(
            img=frames[: self.first],
            img_shape=frames.shape[-2:],
            ori_shape=frames.shape[-2:],
            scale_factor=(1.0, 1.0),
        )
        return results
