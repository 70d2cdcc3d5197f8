"""CIFAR-10 from an archive of JPEG files."""

import os
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from mmengine import dist
from mmpretrain.datasets import BaseDataset
from mmpretrain.datasets.categories import CIFAR10_CATEGORIES

from mmsnn.registry import DATASETS

SPLITS = ('train', 'test')


@DATASETS.register_module()
class CIFAR10JPEG(BaseDataset):
    """CIFAR-10 out of a tar archive of ``SPLIT/CLASS/*.jpg``, nothing unpacked; a drop-in for mmpretrain's CIFAR10.

    Images are RGB, 32x32. They are ordered by file name, then by class, so the first n (``indices=n``) hold every class
    alike. The first use decodes the archive into ``cache`` (184 MB, some seconds).

    Args:
        ann_file: the archive, below ``data_root``.
        split: ``train`` or ``test``.
        cache: the decoded images, a ``.npz``; written again where the archive is newer.
        kwargs: as in mmpretrain's BaseDataset (``indices``, ``pipeline`` ...).

    Raises:
        ValueError: unknown ``split``, or the archive holds no image of it.
        FileNotFoundError: no archive.
    """

    METAINFO = dict(classes=CIFAR10_CATEGORIES)

    def __init__(self, ann_file: str, split: str = 'train', cache: str = 'data/cifar10_jpeg.npz', **kwargs):
        if split not in SPLITS:
            raise ValueError(f'dataset.split must be one of {", ".join(SPLITS)}, got {split!r}')
        self.split = split
        self.cache = Path(cache).expanduser()
        super().__init__(ann_file, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Images and labels of the split; called by the parent."""
        archive = Path(self.ann_file)
        if not archive.is_file():
            raise FileNotFoundError(f'dataset.ann_file: there is no archive {str(archive)!r}')
        stale = not self.cache.is_file() or self.cache.stat().st_mtime < archive.stat().st_mtime
        if stale and dist.is_main_process():
            write_cache(archive, self.cache)
        dist.barrier()
        with np.load(self.cache) as content:
            images, labels = content[f'{self.split}_images'], content[f'{self.split}_labels']
        return [dict(img=image, gt_label=int(label)) for image, label in zip(images, labels)]


def write_cache(archive: Path, cache: Path) -> None:
    """Decode ``archive`` into ``cache``, written aside and then renamed; ValueError where a split is missing."""
    found = {split: {} for split in SPLITS}
    with tarfile.open(archive, 'r|*') as tar:
        for member in tar:
            *_, split, kind, name = ('', '', *PurePosixPath(member.name).parts)
            if member.isfile() and split in found and kind in CIFAR10_CATEGORIES:
                image = cv2.imdecode(np.frombuffer(tar.extractfile(member).read(), np.uint8), cv2.IMREAD_COLOR)
                if image is None:
                    raise ValueError(f'{archive}: {member.name} is no image')
                found[split][name, CIFAR10_CATEGORIES.index(kind)] = image[..., ::-1]
    if not all(found.values()):
        raise ValueError(f'{archive} must hold train/CLASS/*.jpg and test/CLASS/*.jpg, the classes named as usual')
    arrays = {}
    for split, images in found.items():
        keys = sorted(images)
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
