"""R21: images that cannot be read are named and counted, others take their place, above one in a hundred it ends."""

import struct
import zlib
from pathlib import Path

import cli
import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadAnnotations, LoadImageFromFile

from mmsnn.engine.images import NamedImages, NamedLabels, UnreadableImage
from mmsnn.engine.unreadable import FILE


def encoded(suffix: str, size=(64, 64)) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    return cv2.imencode(suffix, noise)[1].tobytes()


def claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims a size."""
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))

    pixels = zlib.compress(bytes(1000))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', pixels) + chunk(b'IEND', b'')


BROKEN = {
    'empty': (b'', 'it is empty'),
    'text': (b'no image at all', 'damaged or not an image'),
    'a web page': (b'<!DOCTYPE html><html></html>', 'it is a web page'),
    'a pointer of Git LFS': (b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'),
    'half of a PNG': (encoded('.png')[:6000], 'damaged or not an image'),
    'a PNG without its end': (encoded('.png')[:-20], 'damaged or not an image'),
    'a PNG with other bytes': (encoded('.png')[:5000] + bytes(64) + encoded('.png')[5064:], 'damaged or not an image'),
    'half of a JPEG': (encoded('.jpg')[:1500], 'damaged or not an image'),
    'half of a large JPEG': (encoded('.jpg', (480, 640))[:90000], 'damaged or not an image'),
    'the head of a JPEG': (encoded('.jpg')[:20], 'damaged or not an image'),
    'one pixel': (encoded('.png', (1, 1)), '1x1 pixels'),
    'one pixel high': (encoded('.png', (1, 64)), '64x1 pixels'),
    'an enormous claim': (claiming(60000, 60000), 'more pixels than an image may have|damaged or not an image'),
    'an absurd claim': (claiming(2**31 - 1, 2**31 - 1), 'more pixels than an image may have|damaged or not an image'),
    'no pixels': (claiming(0, 64), 'damaged or not an image'),
    'missing': (None, 'there is no such file'),
    'a folder': ('folder', 'it is a folder'),
}


def spoil(path: Path, kind: str) -> None:
    content, _ = BROKEN[kind]
    path.unlink()
    if content == 'folder':
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize('kind', BROKEN)
def test_is_named(tmp_path, kind):
    path = cli.image(tmp_path, 'image.png', 0)
    load = NamedImages(LoadImageFromFile())
    assert load.transform(dict(img_path=str(path)))['img'].shape == (64, 64, 3)
    spoil(path, kind)
    with pytest.raises(UnreadableImage, match=BROKEN[kind][1]) as error:
        load.transform(dict(img_path=str(path)))
    assert str(path) in str(error.value)


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize('kind', [kind for kind in BROKEN if not kind.startswith(('one pixel', 'a PNG without'))])
def test_label_images_are_named(tmp_path, kind, backend):
    path = cli.image(tmp_path, 'label.png', 0)
    cv2.imwrite(str(path), np.zeros((64, 64), np.uint8))
    load = NamedLabels(LoadAnnotations(with_bbox=False, with_label=False, with_seg=True, imdecode_backend=backend))
    sample = dict(seg_map_path=str(path), ori_shape=(64, 64))
    assert load.transform(dict(sample))['gt_seg_map'].shape == (64, 64)
    with pytest.raises(UnreadableImage, match='this label image is 64x64 pixels, its image 32x64'):
        load.transform(dict(sample, ori_shape=(64, 32)))
    spoil(path, kind)
    with pytest.raises(UnreadableImage, match=BROKEN[kind][1]) as error:
        load.transform(dict(sample))
    assert str(path) in str(error.value)


@pytest.fixture(scope='module')
def many(tmp_path_factory):
    """A classification of 220 images."""
    folder = tmp_path_factory.mktemp('many')
    return cli.write_classifier(folder, images=220)


def train(config: Path, work: Path, *options: str) -> str:
    """Train an epoch; the log."""
    every = ('train_cfg.max_epochs=1', 'train_dataloader.batch_size=20', *options)
    try:
        cli.main('train', config, '--work-dir', work, '--cfg-options', *every)
    finally:
        log = '\n'.join(path.read_text() for path in sorted(work.glob('*/*.log')))
    return log


def some(config: Path, count: int) -> list[Path]:
    return sorted((config.parent / 'train').glob('*/*.png'))[::37][:count]


@pytest.fixture
def spoilt(many):
    """Spoils so many of the images, and mends them afterwards."""
    kept = {}

    def do(count: int) -> list[Path]:
        for path in some(many, count):
            kept[path] = path.read_bytes()
            path.write_bytes(b'')
        return list(kept)

    yield do
    for path, content in kept.items():
        path.write_bytes(content)


@pytest.mark.parametrize('workers', [0, 2])
def test_few_are_replaced(many, spoilt, tmp_path, workers):
    paths = spoilt(2)
    log = train(many, tmp_path, f'train_dataloader.num_workers={workers}')
    for path in paths:
        assert log.count(f'{path} cannot be read: it is empty. The next sample takes its place') == 1
        assert str(path) in (tmp_path / FILE).read_text()
    assert (tmp_path / 'epoch_1.pth').is_file()


def test_the_list_of_another_training(many, spoilt, tmp_path):
    """A start that fails leaves it, and the training that sets the other one's files aside takes it along."""
    path = spoilt(1)[0]
    train(many, tmp_path)
    with pytest.raises(TypeError, match='optim_wrapper.optimizer.lrr'):
        train(many, tmp_path, 'optim_wrapper.optimizer.lrr=1')
    assert str(path) in (tmp_path / FILE).read_text()
    path.write_bytes(some(many, 2)[1].read_bytes())
    train(many, tmp_path)
    assert not (tmp_path / FILE).exists() and str(path) in (tmp_path / 'earlier_1' / FILE).read_text()


@pytest.mark.parametrize('workers', [0, 2])
def test_more_than_a_hundredth_end_it(many, spoilt, tmp_path, workers):
    paths = spoilt(3)
    with pytest.raises(ValueError, match='train_dataloader: 3 of 220 samples have images that cannot be read'):
        train(many, tmp_path, f'train_dataloader.num_workers={workers}')
    content = (tmp_path / FILE).read_text()
    assert all(str(path) in content for path in paths)


def test_another_size_than_the_annotation_says(tmp_path):
    """It is counted and used; the check before training looks at a sample of the images alone."""
    config = cli.write_detector(tmp_path, images=40)
    odd = cli.image(tmp_path / 'images', '1.png', 1, (32, 48))
    train(config, tmp_path / 'run')
    content = (tmp_path / 'run' / FILE).read_text()
    assert content.startswith('kept\t') and str(odd) in content and '48x32 pixels, its annotation says 64x64' in content


@pytest.mark.parametrize('kind', ['text', 'one pixel', 'half of a PNG'])
def test_testing_ends_with_the_name(tmp_path, kind):
    """What is measured on other images than the set's would be another figure."""
    config = cli.write_detector(tmp_path, images=40)
    train(config, tmp_path / 'run')
    path = tmp_path / 'images' / '1.png'
    spoil(path, kind)
    with pytest.raises(ValueError, match='1.png'):
        cli.main('test', config, tmp_path / 'run' / 'epoch_1.pth', '--work-dir', tmp_path / 'run')
