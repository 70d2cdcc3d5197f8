"""mmsnn data: layouts are built and counted, broken downloads go on; the published addresses are not asked."""

import hashlib
import http.server
import json
import re
import runpy
import tarfile
import threading
import zipfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmsnn.building import read
from mmsnn.datasets import making
from mmsnn.datasets.catalogue import SMALL, SOURCES, File
from mmsnn.datasets.preparing import fetch, prepare, verify
from mmsnn.shipped import home


def main(*args) -> int:
    """The exit code of ``mmsnn data``."""
    return runpy.run_path(str(home() / 'tools' / 'data.py'))['main']([str(arg) for arg in args])


def counts(name: str, root: Path) -> list[str]:
    return [check.text.partition(' ')[0] for check in verify(SOURCES[name], root)]


@pytest.mark.parametrize('name', ['bccd', 'camvid', 'penn_fudan'])
def test_a_whole_set_is_linked_and_counted(name, data_root, tmp_path, capsys):
    assert main(name, '--from', data_root / name, '--to', tmp_path / name) == 0
    said = capsys.readouterr().out
    assert 'LACKS' not in said and SOURCES[name].licence in said
    assert all(path.is_symlink() or path.is_dir() for path in (tmp_path / name).iterdir())


def test_a_slice_is_counted_as_one(data_root, tmp_path, capsys):
    assert main('coco', '--from', data_root / 'coco_slice', '--to', tmp_path / 'coco') == 1
    assert 'LACKS     train2017/*: 128 of 118,287' in capsys.readouterr().out
    assert counts('coco', tmp_path / 'coco') == ['128', '100', '2']
    prepare(SOURCES['ade20k'], data_root / 'ade20k_slice', tmp_path / 'ade')
    assert counts('ade20k', tmp_path / 'ade') == ['3', '3', '3', '3']


def test_an_archive_is_unpacked_once(data_root, tmp_path):
    archive = data_root / 'nmnist_small.tar.xz'
    prepare(SOURCES['n_mnist'], archive, tmp_path)
    assert counts('n_mnist', tmp_path) == ['1,000', '100']
    before = (tmp_path / 'unpacked').stat().st_mtime_ns
    prepare(SOURCES['n_mnist'], archive, tmp_path)
    assert (tmp_path / 'unpacked').stat().st_mtime_ns == before


def test_an_archive_that_the_configs_read_is_only_linked(data_root, tmp_path):
    prepare(SOURCES['cifar10'], data_root / 'cifar10.tar.gz', tmp_path)
    assert (tmp_path / 'cifar10.tar.gz').is_symlink() and [p.name for p in tmp_path.iterdir()] == ['cifar10.tar.gz']
    assert all(check.whole for check in verify(SOURCES['cifar10'], tmp_path))


def test_cifar_is_packed_of_what_is_published(tmp_path, monkeypatch):
    class CIFAR10:
        classes = ['airplane', 'cat']

        def __init__(self, root, train):
            assert Path(root) == tmp_path / 'given'
            rng = np.random.default_rng(train)
            self.items = [(Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)), i) for i in range(2)]

        def __iter__(self):
            return iter(self.items)

    monkeypatch.setattr('torchvision.datasets.CIFAR10', CIFAR10)
    (tmp_path / 'given' / 'cifar-10-batches-py').mkdir(parents=True)
    prepare(SOURCES['cifar10'], tmp_path / 'given', tmp_path / 'root')
    with tarfile.open(tmp_path / 'root' / 'cifar10.tar.gz') as tar:
        assert sorted(tar.getnames())[0] == 'cifar10/test/airplane/00000.png'
        image = Image.open(tar.extractfile('cifar10/train/cat/00001.png'))
        assert np.array_equal(np.asarray(image), np.asarray(CIFAR10(tmp_path / 'given', True).items[1][0]))


def test_bccd_is_made_of_its_xml(data_root, tmp_path):
    given = tmp_path / 'BCCD_Dataset-master' / 'BCCD'
    for name in ('Annotations', 'ImageSets/Main'):
        (given / name).mkdir(parents=True)
    (given / 'JPEGImages').symlink_to(data_root / 'bccd' / 'images')
    wanted = {
        split: json.loads((data_root / f'bccd/annotations/{split}.json').read_text()) for split in ('train', 'val')
    }
    wanted['test'] = dict(images=[], annotations=[])
    for split, content in wanted.items():
        names = {one['id']: one['file_name'][:-4] for one in content['images']}
        (given / f'ImageSets/Main/{split}.txt').write_text('\n'.join(names.values()))
        for one in content['images']:
            boxes = ''.join(
                f'<object><name>{making.CELLS[a["category_id"] - 1]}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin>'
                f'<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>'
                for a in content['annotations'] if a['image_id'] == one['id'] for x, y, w, h in [a['bbox']]
            )  # fmt: skip
            size = f'<size><width>{one["width"]}</width><height>{one["height"]}</height></size>'
            (given / f'Annotations/{names[one["id"]]}.xml').write_text(f'<annotation>{size}{boxes}</annotation>')
    prepare(SOURCES['bccd'], tmp_path, tmp_path / 'root')
    for split in ('train', 'val'):
        made = json.loads((tmp_path / f'root/annotations/{split}.json').read_text())
        keys = ('bbox', 'category_id', 'area', 'iscrowd')
        assert [[a[k] for k in keys] for a in made['annotations']] == [
            [a[k] for k in keys] for a in sorted(wanted[split]['annotations'], key=lambda a: (a['image_id'], a['id']))
        ]
        assert [i['file_name'] for i in made['images']] == [i['file_name'] for i in wanted[split]['images']]


def test_penn_fudan_is_made_of_its_masks(data_root, tmp_path):
    given = tmp_path / 'PennFudanPed'
    (given / 'PedMasks').mkdir(parents=True)
    (given / 'PNGImages').mkdir()
    for path in sorted((data_root / 'penn_fudan/masks').iterdir())[:10]:
        (given / 'PedMasks' / f'{path.stem}_mask.png').symlink_to(path)
    prepare(SOURCES['penn_fudan'], tmp_path, tmp_path / 'root')
    made = json.loads((tmp_path / 'root/annotations/instances_val.json').read_text())
    there = json.loads((data_root / 'penn_fudan/annotations/instances_val.json').read_text())
    assert [Path(i['file_name']).stem for i in made['images']] == ['FudanPed00005', 'FudanPed00010']
    keys = ('bbox', 'area', 'segmentation')
    first = [[a[k] for k in keys] for a in there['annotations'] if a['image_id'] in (5, 10)]
    assert [[a[k] for k in keys] for a in made['annotations']] == first


def test_what_is_not_there_is_named(tmp_path):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(SystemExit, match='camvid: .*holds nothing of CamVid.*CamVid/train'):
        main('camvid', '--from', tmp_path / 'empty', '--to', tmp_path / 'root')
    with pytest.raises(SystemExit, match='coco: there is no'):
        main('coco', '--from', tmp_path / 'missing', '--to', tmp_path / 'root')
    with pytest.raises(SystemExit, match="no data set 'coc': choose one of bccd"):
        main('coc')
    (tmp_path / 'val2017.zip').write_bytes(b'half of it')
    with pytest.raises(SystemExit, match='val2017.zip: the checksum is not 442b8d'):
        main('coco', '--from', tmp_path, '--to', tmp_path / 'root')


def test_event_sets_want_their_archives(tmp_path, capsys):
    pytest.importorskip('spikingjelly')
    given = tmp_path / 'given'
    given.mkdir()
    (given / 'LICENSE.txt').write_text('not the one')
    assert main('dvs_gesture', '--from', given, '--to', tmp_path / 'root') == 1
    said = capsys.readouterr().out
    assert 'download/LICENSE.txt: damaged' in said and 'download/DvsGesture.tar.gz: missing' in said
    assert (tmp_path / 'root/download/LICENSE.txt').is_symlink()


def test_nothing_leaves_the_folder_of_an_archive(tmp_path):
    for name, write in dict(a=_tar, b=_zip).items():
        archive = write(tmp_path / name)
        with pytest.raises(tarfile.TarError) if name == 'a' else nullcontext():
            making.unpack(archive, tmp_path / f'{name}_folder')
        assert not (tmp_path.parent / 'evil.txt').exists() and not (tmp_path / 'evil.txt').exists()


def _tar(path):
    (path.with_suffix('.txt')).write_text('x')
    with tarfile.open(path.with_suffix('.tar'), 'w') as tar:
        tar.add(path.with_suffix('.txt'), '../evil.txt')
    return path.with_suffix('.tar')


def _zip(path):
    with zipfile.ZipFile(path.with_suffix('.zip'), 'w') as file:
        file.writestr('../evil.txt', 'x')
        file.writestr('good.txt', 'x')
    return path.with_suffix('.zip')


CONTENT = bytes(range(256)) * 4096


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `CONTENT`, the first time only a part of it; goes on where it is asked to."""

    calls: list = []

    def do_GET(self):
        begin = int((self.headers.get('Range') or 'bytes=0-')[6:-1])
        self.calls.append(begin)
        self.send_response(206 if begin else 200)
        self.send_header('Content-Length', str(len(CONTENT) - begin))
        self.end_headers()
        self.wfile.write(CONTENT[begin : 300_000 if len(self.calls) == 1 else None])

    def log_message(self, *_):
        pass


@pytest.fixture
def address(monkeypatch):
    Server.calls = []
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}/set.bin'
        server.shutdown()


def test_a_download_that_broke_off_goes_on(address, tmp_path):
    file = File('set.bin', address, hashlib.md5(CONTENT).hexdigest())
    with pytest.raises(OSError, match='broke off after 300000 bytes'):
        fetch(file, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['set.bin.part']
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert Server.calls == [0, 300_000]
    # what is whole is not fetched again
    fetch(file, tmp_path)
    assert len(Server.calls) == 2


def test_a_wrong_checksum_is_refused(address, tmp_path):
    Server.calls = ['not the first']
    with pytest.raises(ValueError, match='the checksum is not 0'):
        fetch(File('set.bin', address, '0' * 32), tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match='cannot be fetched by a program: take it from there'):
        fetch(File('set.bin', 'there', fetched=False), tmp_path)


def test_layouts_are_those_that_the_configs_read(monkeypatch):
    monkeypatch.setenv('MMSNN_DATA_ROOT', '/small')
    configs = dict(
        bccd='bccd_detection', camvid='camvid', cifar10='cifar10_archive', cifar100='cifar100_archive',
        tiny_imagenet='tiny_imagenet', dvs_gesture='dvs128_gesture', cifar10_dvs='cifar10_dvs',
        n_caltech101='ncaltech101', gen1='gen1',
    )  # fmt: skip
    for name, config in configs.items():
        dataset = read(str(home() / 'configs/_base_/datasets' / f'{config}.py')).train_dataloader.dataset
        while 'dataset' in dataset:
            dataset = dataset.dataset
        assert Path(dataset.data_root) == SOURCES[name].folder(), name
    others = dict(coco='mmdet::_base_/datasets/coco_detection.py', ade20k='mmseg::_base_/datasets/ade20k.py',
                  imagenet='mmpretrain::_base_/datasets/imagenet_bs32.py')  # fmt: skip
    for name, config in others.items():
        assert Path(read(config).train_dataloader.dataset.data_root) == SOURCES[name].folder(), name


def test_all_are_listed_and_told(capsys):
    assert main() == 0
    listed = capsys.readouterr().out
    assert all(re.search(rf'^{name} ', listed, re.MULTILINE) for name in SOURCES)
    for source in SOURCES.values():
        assert source.page.startswith('http') and source.licence and source.root.startswith((SMALL, 'data/'))
    assert main('imagenet', '--to', 'nowhere') == 1
    assert 'ILSVRC2012_img_val.tar' in capsys.readouterr().out
