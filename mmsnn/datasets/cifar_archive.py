"""CIFAR-10 and CIFAR-100 from a tar archive of image files."""

import os
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from mmengine import dist
from mmpretrain.datasets import BaseDataset
from mmpretrain.datasets.categories import CIFAR10_CATEGORIES, CIFAR100_CATEGORIES

from mmsnn.registry import DATASETS

SPLITS = ('train', 'test')


class CIFARArchive(BaseDataset):
    """CIFAR out of a tar archive of ``SPLIT/CLASS/NAME``, image files of any kind, nothing unpacked.

    Images are RGB, 32x32. They are ordered by file name, then by class, so the first n (``indices=n``) hold every class
    alike. The first use decodes the archive into ``cache`` (184 MB, less than a minute).

    Args:
        ann_file: the archive, below ``data_root``.
        split: ``train`` or ``test``.
        cache: the decoded images, a ``.npz``; written again where the archive is another or newer. Default:
            ``data/ARCHIVE.npz``.
        kwargs: as in mmpretrain's BaseDataset (``indices``, ``pipeline`` ...).

    Raises:
        ValueError: unknown ``split``; the archive lacks a class or a split, or holds a file that is no image.
        FileNotFoundError: no archive.
    """

    def __init__(self, ann_file: str, split: str = 'train', cache: str | None = None, **kwargs):
        if split not in SPLITS:
            raise ValueError(f'dataset.split must be one of {", ".join(SPLITS)}, got {split!r}')
        self.split = split
        self.cache = Path(cache or Path('data', f'{Path(ann_file).name}.npz')).expanduser()
        super().__init__(ann_file, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Images and labels of the split; called by the parent."""
        archive = Path(self.ann_file)
        if not archive.is_file():
            raise FileNotFoundError(f'dataset.ann_file: there is no archive {str(archive)!r}')
        stale = not self.cache.is_file() or self.cache.stat().st_mtime < archive.stat().st_mtime
        if stale and dist.is_main_process():
            write_cache(archive, self.cache, self.METAINFO['classes'])
        dist.barrier()
        with np.load(self.cache) as content:
            images, labels = content[f'{self.split}_images'], content[f'{self.split}_labels']
        if len(set(labels.tolist())) != len(self.METAINFO['classes']):
            raise ValueError(
                f'dataset.cache: {self.cache} was made from an archive of other classes than those of '
                f'{type(self).__name__}: give each archive a cache of its own'
            )
        return [dict(img=image, gt_label=int(label)) for image, label in zip(images, labels)]


@DATASETS.register_module()
class CIFAR10Archive(CIFARArchive):
    __doc__ = CIFARArchive.__doc__.replace('CIFAR out', 'CIFAR-10 out', 1)

    METAINFO = dict(classes=CIFAR10_CATEGORIES)


@DATASETS.register_module()
class CIFAR100Archive(CIFARArchive):
    __doc__ = CIFARArchive.__doc__.replace('CIFAR out', 'CIFAR-100 out', 1)

    METAINFO = dict(classes=CIFAR100_CATEGORIES)


def write_cache(archive: Path, cache: Path, classes: tuple[str, ...]) -> None:
    """Decode ``archive`` into ``cache``, written aside and then renamed.

    Raises:
        ValueError: a split has no image of one of ``classes``, or a file is no image.
    """
    found = {split: {} for split in SPLITS}
    with tarfile.open(archive, 'r|*') as tar:
        for member in tar:
            *_, split, kind, name = ('', '', *PurePosixPath(member.name).parts)
            if member.isfile() and split in found and kind in classes:
                image = cv2.imdecode(np.frombuffer(tar.extractfile(member).read(), np.uint8), cv2.IMREAD_COLOR)
                if image is None:
                    raise ValueError(f'{archive}: {member.name} is no image')
                found[split][name, classes.index(kind)] = image[..., ::-1]
    arrays = {}
    for split, images in found.items():
        keys = sorted(images)
        missing = sorted(set(range(len(classes))) - {label for _, label in keys})
        if missing:
            shown = ', '.join(classes[i] for i in missing[:3]) + (' ...' if len(missing) > 3 else '')
            raise ValueError(
                f'{archive} must hold train/CLASS/* and test/CLASS/* for the {len(classes)} classes: '
                f'{split} has no image of {shown}'
            )
        arrays[f'{split}_images'] = np.stack([images[k] for k in keys])
        arrays[f'{split}_labels'] = np.array([label for _, label in keys])
    cache.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=cache.parent, prefix=f'.{cache.name}-')
    try:
        with os.fdopen(handle, 'wb') as file:
            np.savez(file, **arrays)
        os.chmod(temporary, 0o644)
        os.replace(temporary, cache)
    finally:
        Path(temporary).unlink(missing_ok=True)
