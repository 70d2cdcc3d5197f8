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
    """CIFAR read from a tar archive of images ``SPLIT/CLASS/NAME`` in any format, which is not unpacked.

    Images are RGB, 32x32. They are sorted by file name and then by class, so the first n (``indices=n``) are balanced
    over the classes. The first use decodes the archive into ``cache`` (184 MB, less than a minute).

    Args:
        ann_file: the archive, below ``data_root``.
        split: ``train`` or ``test``.
        cache: ``.npz`` file of the decoded images, written anew if the archive is newer. Default: ``data/ARCHIVE.npz``.
        kwargs: as in mmpretrain's BaseDataset (``indices``, ``pipeline`` ...).

    Raises:
        ValueError: ``split`` is unknown; the archive lacks a class or a split, or contains a file that is not an
            image; or ``cache`` belongs to an archive of other classes.
        FileNotFoundError: there is no archive.
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
                f'dataset.cache: {self.cache} was made from an archive with other classes than '
                f'{type(self).__name__}: give each archive its own cache'
            )
        return [dict(img=image, gt_label=int(label)) for image, label in zip(images, labels)]


@DATASETS.register_module()
class CIFAR10Archive(CIFARArchive):
    __doc__ = CIFARArchive.__doc__.replace('CIFAR read', 'CIFAR-10 read', 1)

    METAINFO = dict(classes=CIFAR10_CATEGORIES)


@DATASETS.register_module()
class CIFAR100Archive(CIFARArchive):
    __doc__ = CIFARArchive.__doc__.replace('CIFAR read', 'CIFAR-100 read', 1)

    METAINFO = dict(classes=CIFAR100_CATEGORIES)


def write_cache(archive: Path, cache: Path, classes: tuple[str, ...]) -> None:
    """Decode ``archive`` into a temporary file, which is then renamed to ``cache``.

    Raises:
        ValueError: a split has no image of one of ``classes``, or a file is not an image.
    """
    decoded = {split: {} for split in SPLITS}
    with tarfile.open(archive, 'r|*') as tar:
        for member in tar:
            *_, split, kind, name = ('', '', *PurePosixPath(member.name).parts)
            if member.isfile() and split in decoded and kind in classes:
                image = cv2.imdecode(np.frombuffer(tar.extractfile(member).read(), np.uint8), cv2.IMREAD_COLOR)
                if image is None:
                    raise ValueError(f'{archive}: {member.name} is not an image')
                decoded[split][name, classes.index(kind)] = image[..., ::-1]
    arrays = {}
    for split, images in decoded.items():
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
