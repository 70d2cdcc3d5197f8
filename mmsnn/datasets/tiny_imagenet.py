"""Tiny ImageNet, read from its published folders."""

import os
from pathlib import Path

from mmpretrain.datasets import BaseDataset

from mmsnn.registry import DATASETS


@DATASETS.register_module()
class TinyImageNet(BaseDataset):
    """Tiny ImageNet (Stanford CS231n): 200 classes, 500 training and 50 validation images each, 64x64.

    Reads ``wnids.txt``, ``words.txt``, the images ``train/WNID/images/*.JPEG`` that ``train/WNID/WNID_boxes.txt``
    lists, and ``val/images/*.JPEG`` with ``val/val_annotations.txt``. Classes are sorted by their WordNet ids, as
    loaders of folders sort them. The images of ``test`` have no labels and are not read.

    Args:
        data_root: the folder ``tiny-imagenet-200``.
        split: ``train`` or ``val``.
        metainfo: as in mmpretrain's BaseDataset; ``classes`` replaces the names from ``words.txt``.
        kwargs: as in mmpretrain's BaseDataset (``indices``, ``pipeline`` ...).

    Raises:
        FileNotFoundError: a list or an image is missing; the message names the first.
        ValueError: ``split`` is unknown, or a list is damaged or names an unknown class.
    """

    def __init__(self, data_root: str, split: str = 'train', metainfo: dict | None = None, **kwargs):
        if split not in ('train', 'val'):
            raise ValueError(f'dataset.split must be train or val, got {split!r}; the test images have no labels')
        self.split = split
        self.root = Path(data_root).expanduser()
        self.wnids = sorted(line[0] for line in self._read('wnids.txt', 1))
        words = {line[0]: line[1].split(',')[0] for line in self._read('words.txt', 2)}
        names = tuple(words.get(wnid, wnid) for wnid in self.wnids)
        super().__init__('', data_root=data_root, metainfo={'classes': names, **(metainfo or {})}, **kwargs)

    def load_data_list(self) -> list[dict]:
        """A dict of path and label for each image; the parent class calls it."""
        labels = {wnid: i for i, wnid in enumerate(self.wnids)}
        if self.split == 'train':
            lists = {wnid: self._read(f'train/{wnid}/{wnid}_boxes.txt', 1) for wnid in self.wnids}
            images = [(self.root / 'train' / w / 'images' / line[0], w) for w, lines in lists.items() for line in lines]
        else:
            images = [(self.root / 'val/images' / name, w) for name, w, *_ in self._read('val/val_annotations.txt', 2)]
        unknown = {wnid for _, wnid in images} - set(labels)
        if unknown:
            raise ValueError(f'{self.root}/val/val_annotations.txt: {min(unknown)} is not among the ids of wnids.txt')
        folders = {path.parent for path, _ in images}
        listed = {folder: set(os.listdir(folder)) if folder.is_dir() else () for folder in folders}
        missing = [path for path, _ in images if path.name not in listed[path.parent]]
        if missing:
            raise FileNotFoundError(f'dataset.data_root: {len(missing)} images are missing, the first: {missing[0]}')
        return [dict(img_path=str(path), gt_label=labels[wnid]) for path, wnid in images]

    def _read(self, name: str, columns: int) -> list[list[str]]:
        """The columns of each line of a list, separated by tabs."""
        path = self.root / name
        if not path.is_file():
            raise FileNotFoundError(
                f'dataset.data_root: there is no {path}; data_root must be the folder tiny-imagenet-200, unpacked'
            )
        lines = [line.split('\t') for line in path.read_text().splitlines() if line.strip()]
        if not lines or min(map(len, lines)) < columns:
            raise ValueError(f'{path} is damaged: expected lines of at least {columns} columns, separated by tabs')
        return lines
