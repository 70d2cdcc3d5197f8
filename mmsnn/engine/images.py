"""Images that cannot be read: named, and told from whatever else may fail in a pipeline."""

import os
from pathlib import Path

from mmcv.transforms import BaseTransform, LoadImageFromFile

from mmsnn.checkpoints.claims import stand_in

# pixels of the smallest side: a file of one is what downloads leave in the place of an image
LEAST = 2


class UnreadableImage(ValueError):
    """An image file that cannot be trained or tested with.

    Attributes:
        path: of the file.
        reason: what is wrong with it.
    """

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f'{self.path} cannot be read: {self.reason}'


class NamedImages(BaseTransform):
    """A transform that loads images, whose failures name the file.

    Args:
        load: mmcv's LoadImageFromFile, or one of its kind.
        notice: whether to keep what is noticed, for one who asks (`noticed`) now and then.

    Attributes:
        noticed: paths and reasons of images that are used, although their annotation gives them another size.

    Raises:
        UnreadableImage: the file is missing, empty, damaged, no image, larger than the decoder allows, or smaller than
            two pixels.
    """

    def __init__(self, load: BaseTransform, notice: bool = False):
        self.load, self.notice = load, notice
        self.noticed: list[tuple[str, str]] = []

    def __getattr__(self, name: str):
        if name == 'load':
            raise AttributeError(name)
        return getattr(self.load, name)

    def transform(self, results: dict) -> dict | None:
        """What ``load`` makes of ``results``."""
        path = results.get('img_path')
        given = results.get('width'), results.get('height')
        try:
            found = self.load.transform(results)
        # whatever a decoder or a file system makes of it
        except Exception as error:
            if not isinstance(path, str):
                raise
            raise UnreadableImage(path, why(path, error)) from error
        if not isinstance(path, str) or not isinstance(found, dict) or 'img_shape' not in found:
            return found
        height, width = found['img_shape'][:2]
        if min(height, width) < LEAST:
            raise UnreadableImage(path, f'it is {width}x{height} pixels, as what stands in for an image is')
        if self.notice and all(isinstance(n, int) for n in given) and given != (width, height):
            self.noticed.append((path, f'it is {width}x{height} pixels, its annotation says {given[0]}x{given[1]}'))
        return found

    def __repr__(self) -> str:
        return repr(self.load)


def why(path: str, error: Exception) -> str:
    """What is wrong with an image file."""
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
        return 'it claims to be larger than images are'
    return f'{Path(path).suffix or "it"} is damaged or no image ({type(error).__name__})'


def name_images(dataset, notice: bool = False) -> None:
    """Put `NamedImages` around what loads images in the pipelines of a dataset and of those that it wraps."""
    for inner in (getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or ())):
        if inner is not None and inner is not dataset:
            name_images(inner, notice)
    transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', None)
    for i, transform in enumerate(transforms if isinstance(transforms, list) else ()):
        if isinstance(transform, LoadImageFromFile):
            transforms[i] = NamedImages(transform, notice)


def noticed(dataset) -> list[tuple[str, str]]:
    """What `NamedImages` noticed since it was asked last."""
    found = []
    for inner in (getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or ())):
        if inner is not None and inner is not dataset:
            found += noticed(inner)
    transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', None)
    for transform in transforms if isinstance(transforms, list) else ():
        if isinstance(transform, NamedImages):
            found += transform.noticed
            transform.noticed = []
    return found
