import os
import tarfile

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS, DefaultScope

from mmsnn.datasets import cifar_archive
from mmsnn.datasets.cifar_archive import CIFAR10_CATEGORIES, CIFAR10Archive, CIFAR100Archive


@pytest.fixture
def archive(tmp_path):
    """Three training images and one test image a class; the red channel tells the class, the blue one the file."""
    path = tmp_path / 'cifar.tar.gz'
    with tarfile.open(path, 'w:gz') as tar:
        for split, count in (('train', 3), ('test', 1)):
            for label, kind in enumerate(CIFAR10_CATEGORIES):
                for i in range(count):
                    file = tmp_path / 'image.png'
                    picture = np.full((32, 32, 3), (80 * i, 0, 20 * label), np.uint8)
                    cv2.imwrite(str(file), picture)
                    tar.add(file, f'cifar10/{split}/{kind}/{i:04d}.png')
    return path


def build(archive, **kwargs):
    return CIFAR10Archive(
        archive.name, data_root=str(archive.parent), cache=str(archive.parent / 'cache.npz'), **kwargs
    )


def test_images_are_rgb_and_classes_interleaved(archive):
    data = build(archive)
    assert len(data) == 30
    assert [data.get_data_info(i)['gt_label'] for i in range(12)] == [*range(10), 0, 1]
    red, _, blue = data.get_data_info(13)['img'].mean((0, 1))
    assert (red, blue) == (60, 80)


def test_first_images_hold_every_class(archive):
    data = build(archive, indices=10)
    assert sorted(data.get_gt_labels()) == list(range(10))


def test_splits(archive):
    assert len(build(archive, split='test')) == 10
    with pytest.raises(ValueError, match='val'):
        build(archive, split='val')


def test_decoded_once(archive, monkeypatch):
    build(archive)
    monkeypatch.setattr(cifar_archive, 'write_cache', lambda *_: pytest.fail('decoded again'))
    build(archive, split='test')


def test_newer_archive_is_decoded_again(archive):
    build(archive)
    cache = archive.parent / 'cache.npz'
    os.utime(cache, (0, 0))
    build(archive)
    assert cache.stat().st_mtime > 0


def test_interrupted_decoding_leaves_nothing(archive, monkeypatch):
    monkeypatch.setattr(cifar_archive.np, 'savez', lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build(archive)
    assert not [p for p in archive.parent.iterdir() if 'cache' in p.name]


def test_wrong_archives(archive, tmp_path):
    with pytest.raises(FileNotFoundError, match='missing.tar'):
        CIFAR10Archive(str(tmp_path / 'missing.tar'))
    with tarfile.open(tmp_path / 'other.tar', 'w') as tar:
        tar.add(tmp_path / 'image.png', 'cat.png')
    with pytest.raises(ValueError, match='other.tar'):
        build(tmp_path / 'other.tar')


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmdet', 'mmseg'])
def test_builds_in_every_scope(archive, scope):
    cfg = dict(type='mmsnn.CIFAR10Archive', ann_file=str(archive), cache=str(archive.parent / 'cache.npz'))
    with DefaultScope.overwrite_default_scope(scope):
        assert len(DATASETS.build(cfg)) == 30


def test_the_classes_of_the_archive_are_those_of_the_dataset(archive, tmp_path):
    with pytest.raises(ValueError, match='100 classes: train has no image of apple'):
        CIFAR100Archive(archive.name, data_root=str(archive.parent), cache=str(tmp_path / 'other.npz'))
    build(archive)
    with pytest.raises(ValueError, match='cache'):
        CIFAR100Archive(archive.name, data_root=str(archive.parent), cache=str(archive.parent / 'cache.npz'))


@pytest.mark.parametrize('kind, classes', [(CIFAR10Archive, 10), (CIFAR100Archive, 100)])
def test_real_archives(data_root, tmp_path, kind, classes):
    """The test images of the archives that the configs read: few of them, because decoding all takes a while."""
    small = tmp_path / 'small.tar'
    archive = data_root / f'cifar{classes}.tar.gz'
    if not archive.is_file():
        pytest.skip(f'no {archive}')
    with tarfile.open(archive, 'r|*') as source, tarfile.open(small, 'w') as target:
        for member in source:
            if member.isfile() and member.name.endswith('/0000.webp'):
                target.addfile(member, source.extractfile(member))
    data = kind(str(small), split='test', cache=str(tmp_path / 'small.npz'))
    assert len(data) == classes and data.metainfo['classes'][0] in ('airplane', 'apple')
    assert data.get_data_info(0)['img'].shape == (32, 32, 3)
