"""Errors for images that cannot be read, which name the file and differ from other errors of a pipeline."""

import os
from pathlib import Path

import mmcv
from mmcv.transforms import BaseTransform, LoadAnnotations, LoadImageFromFile
from PIL import Image

from mmsnn.checkpoints.claims import stand_in

# Smallest side of an image in pixels; images of one pixel are placeholders of failed downloads.
LEAST = 2


class UnreadableImage(ValueError):
    """An image file that cannot be used for training or testing.

    Attributes:
        path: path of the file.
        reason: its fault.
    """

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f'{self.path} cannot be read: {self.reason}'


class Named(BaseTransform):
    """A transform that acts as another one, ``load``, and raises errors that name the file.

    Raises:
        UnreadableImage: the file is missing, empty, damaged, not an image, or larger than the decoder allows.
    """

    def __init__(self, load: BaseTransform):
        self.load = load

    def __getattr__(self, name: str):
        if name == 'load':
            raise AttributeError(name)
        return getattr(self.load, name)

    def __repr__(self) -> str:
        return repr(self.load)


class NamedImages(Named):
    """A transform that loads images by another one.

    Args:
        load: mmcv's LoadImageFromFile or a transform derived from it.
        notice: whether to collect images whose size differs from their annotation, for `noticed`.

    Attributes:
        noticed: paths and reasons of such images, which are used nevertheless.

    Raises:
        UnreadableImage: as `Named`, or the image is smaller than two pixels.
    """

    def __init__(self, load: BaseTransform, notice: bool = False):
        super().__init__(load)
        self.notice = notice
        self.noticed: list[tuple[str, str]] = []

    def transform(self, results: dict) -> dict | None:
        """The result of ``load`` for ``results``."""
        path = results.get('img_path')
        given = results.get('width'), results.get('height')
        try:
            loaded = self.load.transform(results)
        # Decoders and file systems raise errors of many kinds.
        except Exception as error:
            if not isinstance(path, str):
                raise
            raise UnreadableImage(path, why(path, error)) from error
        if not isinstance(path, str) or not isinstance(loaded, dict) or 'img_shape' not in loaded:
            return loaded
        height, width = loaded['img_shape'][:2]
        if min(height, width) < LEAST:
            raise UnreadableImage(path, f'it has {width}x{height} pixels, like a placeholder of an image')
        if self.notice and all(isinstance(n, int) for n in given) and given != (width, height):
            self.noticed.append((path, f'it is {width}x{height} pixels, its annotation says {given[0]}x{given[1]}'))
        return loaded


class NamedLabels(Named):
    """A transform that loads annotations by another one, mmcv's LoadAnnotations or one derived from it.

    Raises:
        UnreadableImage: as `Named`, or a label image has another size than its image.
    """

    def transform(self, results: dict) -> dict | None:
        """The result of ``load`` for ``results``."""
        path = results.get('seg_map_path')
        try:
            loaded = self.load.transform(results)
        # Other annotations may be at fault; then the label image can be read.
        except Exception as error:
            if isinstance(path, str) and fault(path):
                raise UnreadableImage(path, why(path, error)) from error
            raise
        if isinstance(path, str) and isinstance(loaded, dict) and 'gt_seg_map' in loaded and 'ori_shape' in loaded:
            own, image = loaded['gt_seg_map'].shape[:2], tuple(loaded['ori_shape'][:2])
            if own != image:
                raise UnreadableImage(path, other_size(own, image))
        return loaded


def fault(path: str) -> str | None:
    """What keeps an image file from being decoded; None if nothing does."""
    try:
        return 'it is not an image' if mmcv.imread(path, flag='unchanged', backend='pillow') is None else None
    # Decoders and file systems raise errors of many kinds.
    except Exception as error:
        return why(path, error)


def image_size(path: str) -> tuple[int, int]:
    """Width and height of an image as mmcv loads it, with the rotation of its EXIF entry.

    Raises:
        OSError: the file is not an image.
    """
    with Image.open(path) as image:
        turned = image.getexif().get(0x0112, 1) > 4
        return image.size[::-1] if turned else image.size


def other_size(label: tuple[int, int], image: tuple[int, int]) -> str:
    """The fault of a label image whose height and width are not those of its image."""
    return f'this label image is {label[1]}x{label[0]} pixels, its image {image[1]}x{image[0]}'


def why(path: str, error: Exception) -> str:
    """The fault of an image file."""
    if '://' not in path:
        if os.path.isdir(path):
            return 'it is a folder'
        if not os.path.exists(path):
            return 'there is no such file'
        if os.path.getsize(path) == 0:
            return 'it is empty'
        try:
            what = stand_in(path)
        except OSError as problem:
            return problem.strerror or str(problem)
        if what:
            return f'it is {what}'
    if 'MAX_IMAGE_PIXELS' in str(error) or type(error).__name__ == 'DecompressionBombError':
        return 'it claims to have more pixels than an image may have'
    return f'{Path(path).suffix or "it"} is damaged or not an image ({type(error).__name__})'


def name_images(dataset, notice: bool = False) -> None:
    """Wrap the transforms that load images and label images, in the pipelines of a dataset and its inner datasets."""
    for inner in (getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or ())):
        if inner is not None and inner is not dataset:
            name_images(inner, notice)
    transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', None)
    for i, transform in enumerate(transforms if isinstance(transforms, list) else ()):
        if isinstance(transform, LoadImageFromFile):
            transforms[i] = NamedImages(transform, notice)
        elif isinstance(transform, LoadAnnotations):
            transforms[i] = NamedLabels(transform)


def noticed(dataset) -> list[tuple[str, str]]:
    """The images that `NamedImages` has noticed since the last call."""
    images = []
    for inner in (getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or ())):
        if inner is not None and inner is not dataset:
            images += noticed(inner)
    transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', None)
    for transform in transforms if isinstance(transforms, list) else ():
        if isinstance(transform, NamedImages):
            images += transform.noticed
            transform.noticed = []
    return images
