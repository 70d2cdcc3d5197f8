"""Layouts that are more than links: annotations in COCO's format, archives of images, ImageNet's folders of classes."""

import gzip
import io
import json
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

CELLS = ('RBC', 'WBC', 'Platelets')
# what reading a damaged archive raises; of a zip file's password it is RuntimeError
DAMAGED = (EOFError, tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, RuntimeError)


def find(given: Path, name: str, inside: str = '') -> Path | None:
    """The file or folder called ``name`` (with parents, as far as given) at or below ``given``; None without one.

    Only folders count that hold a file of the pattern ``inside``: another data set may have one of the same name.
    """
    ends = tuple(Path(name).parts)
    if given.parts[-len(ends) :] == ends and holds(given, inside):
        return given
    # the nearest first; archives unpack into one or two folders of their own
    for depth in range(3):
        for path in sorted(given.glob('/'.join(['*'] * depth + [name]))):
            # an archive that was unpacked into a folder of its own name
            for one in (path / name, path):
                if one.exists() and holds(one, inside):
                    return one
    return None


def holds(folder: Path, inside: str) -> bool:
    """Whether there is a file of that pattern in a folder; an empty pattern asks for nothing."""
    return not inside or next(folder.glob(inside), None) is not None


def _write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix('.part')
    part.write_text(json.dumps(content))
    os.replace(part, path)


def _coco(images: list[dict], annotations: list[dict], names: tuple[str, ...]) -> dict:
    categories = [dict(id=i, name=name) for i, name in enumerate(names, 1)]
    numbered = [dict(id=i, **one) for i, one in enumerate(annotations, 1)]
    return dict(images=images, annotations=numbered, categories=categories)


def make_bccd(given: Path, root: Path) -> None:
    """COCO files of BCCD's XML files and lists."""
    xml, lists = find(given, 'BCCD/Annotations'), find(given, 'BCCD/ImageSets/Main')
    for split in ('train', 'val', 'test'):
        target = root / 'annotations' / f'{split}.json'
        if target.exists():
            continue
        images, annotations = [], []
        for number, stem in enumerate((lists / f'{split}.txt').read_text().split(), 1):
            try:
                (width, height), cells = _cells(xml / f'{stem}.xml')
            except (ElementTree.ParseError, TypeError, ValueError) as error:
                raise ValueError(f'{xml / stem}.xml is damaged: {error}') from error
            images.append(dict(id=number, file_name=f'{stem}.jpg', width=width, height=height))
            for kind, (x, y, w, h) in cells:
                # COCO counts as area what a mask covers; a box has its own
                annotations.append(dict(image_id=number, iscrowd=0, category_id=kind, bbox=[x, y, w, h], area=w * h))
        _write(target, _coco(images, annotations, CELLS))


def _cells(path: Path) -> tuple[list[int], list[tuple[int, list[int]]]]:
    """Width and height of an image of BCCD, and the class and the box ``[x, y, w, h]`` of every cell."""
    tree, cells = ElementTree.parse(path), []
    for one in tree.iter('object'):
        x1, y1, x2, y2 = (int(float(one.findtext(f'bndbox/{k}'))) for k in ('xmin', 'ymin', 'xmax', 'ymax'))
        cells.append((CELLS.index(one.findtext('name')) + 1, [x1, y1, x2 - x1, y2 - y1]))
    return [int(tree.findtext(f'size/{side}')) for side in ('width', 'height')], cells


def make_penn_fudan(given: Path, root: Path) -> None:
    """COCO files of the masks of Penn-Fudan."""
    from pycocotools import mask as masks

    files, pictures = sorted(find(given, 'PedMasks').glob('*.png')), find(given, 'PNGImages')
    for split in ('train', 'val'):
        target = root / 'annotations' / f'instances_{split}.json'
        if target.exists():
            continue
        images, annotations = [], []
        for number, path in enumerate(files, 1):
            if (number % 5 == 0) != (split == 'val'):
                continue
            labels = np.asarray(Image.open(path))
            picture = pictures / path.name.replace('_mask', '')
            images.append(dict(id=number, file_name=picture.name, width=labels.shape[1], height=labels.shape[0]))
            for person in range(1, int(labels.max()) + 1):
                encoded = masks.encode(np.asfortranarray(labels == person))
                box = masks.toBbox(encoded).astype(int).tolist()
                shape = dict(size=list(encoded['size']), counts=encoded['counts'].decode())
                annotations.append(
                    dict(
                        image_id=number,
                        iscrowd=0,
                        category_id=1,
                        bbox=box,
                        area=int(masks.area(encoded)),
                        segmentation=shape,
                    )
                )
        _write(target, _coco(images, annotations, ('person',)))


def make_cifar10(given: Path, root: Path) -> None:
    """The archive of CIFAR-10's images."""
    from torchvision.datasets import CIFAR10

    _write_images(CIFAR10, find(given, 'cifar-10-batches-py').parent, root / 'cifar10.tar.gz')


def make_cifar100(given: Path, root: Path) -> None:
    """The archive of CIFAR-100's images."""
    from torchvision.datasets import CIFAR100

    _write_images(CIFAR100, find(given, 'cifar-100-python').parent, root / 'cifar100.tar.gz')


def _write_images(source, given: Path, archive: Path) -> None:
    if archive.exists():
        return
    name, part = archive.name.partition('.')[0], archive.with_suffix('.part')
    # torchvision checks the files' checksums
    splits = {split: source(given, train=split == 'train') for split in ('train', 'test')}
    with tarfile.open(part, 'w:gz', compresslevel=1) as tar:
        for split, images in splits.items():
            for number, (image, label) in enumerate(images):
                file = io.BytesIO()
                image.save(file, format='png')
                info = tarfile.TarInfo(f'{name}/{split}/{images.classes[label]}/{number:05d}.png')
                info.size = file.tell()
                file.seek(0)
                tar.addfile(info, file)
    os.replace(part, archive)


def imagenet_archives() -> list[tuple[str, str]]:
    """Names and checksums of ImageNet's archives, as torchvision knows them."""
    from torchvision.datasets.imagenet import ARCHIVE_META

    return list(ARCHIVE_META.values())


def make_imagenet(given: Path, root: Path) -> None:
    """Folders of classes of ImageNet's archives, by torchvision."""
    from torchvision.datasets import imagenet

    folder = find(given, 'ILSVRC2012_img_val.tar').parent
    for name, _ in imagenet_archives():
        if folder.resolve() != root.resolve() and (folder / name).is_file() and not (root / name).exists():
            (root / name).symlink_to((folder / name).resolve())
    imagenet.parse_devkit_archive(root)
    wnids = imagenet.load_meta_file(root)[1]
    if (root / 'ILSVRC2012_img_train.tar').exists() and not (root / 'train').exists():
        imagenet.parse_train_archive(root)
    if not (root / 'val').exists():
        imagenet.parse_val_archive(root, wnids=wnids)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack into a folder that appears when it is whole; nothing in the archive can leave it.

    Raises:
        ValueError: the archive is damaged.
    """
    part = folder.with_name(f'{folder.name}.part')
    shutil.rmtree(part, ignore_errors=True)
    options = dict(filter='data') if '.tar' in archive.name or archive.suffix in ('.tgz', '.txz') else {}
    try:
        shutil.unpack_archive(archive, part, **options)
    except DAMAGED as error:
        raise ValueError(f'{archive} cannot be unpacked: {type(error).__name__}: {error}; fetch it again') from error
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, folder)
