"""mmsnn data: layouts are built and counted, broken downloads go on; the published addresses are not asked."""

import hashlib
import http.server
import json
import re
import runpy
import shutil
import sys
import tarfile
import threading
import zipfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmsnn.building import read
from mmsnn.datasets import TinyImageNet, making
from mmsnn.datasets.catalogue import SMALL, SOURCES, File
from mmsnn.datasets.preparing import fetch, prepare, verify
from mmsnn.shipped import home


def main(*args) -> int:
    """The exit code of ``mmsnn data``."""
    return runpy.run_path(str(home() / 'tools' / 'data.py'))['main']([str(arg) for arg in args])


def counts(name: str, root: Path) -> list[str]:
    return [check.text.partition(' ')[0] for check in verify(SOURCES[name], root)]


def pack(path: Path, **members: bytes) -> Path:
    """A zip file of members by their names."""
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, 'w') as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.fixture
def any_checksum(monkeypatch):
    """Archives of a few files go for the published ones."""
    monkeypatch.setattr('mmsnn.datasets.preparing.check_integrity', lambda path, md5: Path(path).is_file())


def test_archives_named_like_the_folders_in_them(any_checksum, tmp_path):
    for split in ('train2017', 'val2017'):
        pack(tmp_path / f'given/{split}.zip', **{f'{split}/{i}.jpg': b'' for i in range(5)})
    labels = {f'annotations/instances_{split}2017.json': b'{}' for split in ('train', 'val')}
    pack(tmp_path / 'given/annotations_trainval2017.zip', **labels)
    prepare(SOURCES['coco'], tmp_path / 'given', tmp_path / 'coco')
    assert counts('coco', tmp_path / 'coco') == ['5', '5', '2']
    assert (tmp_path / 'coco/train2017/0.jpg').is_file()
    # those who unpack by hand may have both folders
    shutil.unpack_archive(tmp_path / 'given/val2017.zip', tmp_path / 'unpacked/val2017')
    prepare(SOURCES['coco'], tmp_path / 'unpacked', tmp_path / 'again')
    assert (tmp_path / 'again/val2017/0.jpg').is_file()


def test_n_mnist_is_built_of_its_archives(any_checksum, tmp_path):
    pytest.importorskip('spikingjelly')
    names = [file.name for file in SOURCES['n_mnist'].files]
    assert sorted(names) == ['Test.zip', 'Train.zip']
    for name in names:
        pack(tmp_path / 'given' / name, **{f'{name[:-4]}/{label}/0.bin': b'' for label in range(3)})
    prepare(SOURCES['n_mnist'], tmp_path / 'given', tmp_path / 'root')
    assert counts('n_mnist', tmp_path / 'root') == ['3', '3']


def test_tiny_imagenet_is_read_as_it_was_built(tmp_path):
    home = 'tiny-imagenet-200/'
    members = {f'{home}wnids.txt': 'n01\nn02\n', f'{home}words.txt': 'n01\tgoldfish\nn02\tfire salamander\n'}
    for wnid in ('n01', 'n02'):
        members[f'{home}train/{wnid}/{wnid}_boxes.txt'] = f'{wnid}_0.JPEG\t0\t0\t63\t63\n'
        members[f'{home}train/{wnid}/images/{wnid}_0.JPEG'] = b''
    members[f'{home}val/val_annotations.txt'] = 'val_0.JPEG\tn02\t0\t0\t63\t63\n'
    members[f'{home}val/images/val_0.JPEG'] = b''
    archive = pack(tmp_path / 'given/tiny-imagenet-200.zip', **members)
    prepare(SOURCES['tiny_imagenet'], archive, tmp_path / 'root')
    assert counts('tiny_imagenet', tmp_path / 'root') == ['1', '1', '2', '1', '1']
    for split, labels in dict(train=[0, 1], val=[1]).items():
        dataset = TinyImageNet(str(tmp_path / 'root'), split)
        assert [dataset.get_data_info(i)['gt_label'] for i in range(len(dataset))] == labels


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


@pytest.mark.parametrize('earlier', [False, True])
def test_labels_of_another_data_set_are_left_alone(data_root, tmp_path, earlier):
    """COCO's folder beside Penn-Fudan's is not linked, a link to it is replaced, and nothing is written into it."""
    given = tmp_path / 'downloads'
    (given / 'PennFudanPed/PedMasks').mkdir(parents=True)
    (given / 'PennFudanPed/PNGImages').mkdir()
    for path in sorted((data_root / 'penn_fudan/masks').iterdir())[:5]:
        (given / 'PennFudanPed/PedMasks' / f'{path.stem}_mask.png').symlink_to(path)
    (given / 'annotations').mkdir()
    (given / 'annotations/instances_train2017.json').write_text('{}')
    if earlier:
        (tmp_path / 'root').mkdir()
        (tmp_path / 'root/annotations').symlink_to(given / 'annotations')
    prepare(SOURCES['penn_fudan'], given, tmp_path / 'root')
    assert [path.name for path in (given / 'annotations').iterdir()] == ['instances_train2017.json']
    assert not (tmp_path / 'root/annotations').is_symlink()
    assert json.loads((tmp_path / 'root/annotations/instances_val.json').read_text())['images']


def test_what_is_not_there_is_named(tmp_path):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(SystemExit, match='camvid: .*holds nothing of CamVid.*CamVid/train'):
        main('camvid', '--from', tmp_path / 'empty', '--to', tmp_path / 'root')
    with pytest.raises(SystemExit, match='coco: there is no'):
        main('coco', '--from', tmp_path / 'missing', '--to', tmp_path / 'root')
    with pytest.raises(SystemExit, match="no data set 'coc': choose one of bccd"):
        main('coc')
    # what was in an archive of another data set does not stay
    (tmp_path / 'other.txt').touch()
    with tarfile.open(tmp_path / 'other.tar.gz', 'w:gz') as tar:
        tar.add(tmp_path / 'other.txt', 'other/other.txt')
    with pytest.raises(SystemExit, match='holds nothing of CIFAR-10'):
        main('cifar10', '--from', tmp_path / 'other.tar.gz', '--to', tmp_path / 'root')
    assert not list((tmp_path / 'root').rglob('other*'))
    (tmp_path / 'val2017.zip').write_bytes(b'half of it')
    with pytest.raises(SystemExit, match='val2017.zip: the checksum is not 442b8d'):
        main('coco', '--from', tmp_path, '--to', tmp_path / 'root')


def test_damaged_files_are_named(data_root, tmp_path):
    whole = (data_root / 'nmnist_small.tar.xz').read_bytes()
    (tmp_path / 'nmnist.tar.xz').write_bytes(whole[: len(whole) // 2])
    pack(tmp_path / 'camvid.zip', **{'CamVid/train/0.png': bytes(1000)})
    zipped = bytearray((tmp_path / 'camvid.zip').read_bytes())
    zipped[60:80] = bytes(range(20))
    (tmp_path / 'camvid.zip').write_bytes(zipped)
    for name, file in dict(n_mnist='nmnist.tar.xz', camvid='camvid.zip').items():
        if name == 'n_mnist':
            pytest.importorskip('spikingjelly')
        with pytest.raises(SystemExit, match=f'{name}: .*{file} cannot be unpacked'):
            main(name, '--from', tmp_path / file, '--to', tmp_path / 'root')
    (tmp_path / 'cifar' / 'cifar-10-batches-py').mkdir(parents=True)
    with pytest.raises(SystemExit, match='cifar10: .*cifar: Dataset not found or corrupted'):
        main('cifar10', '--from', tmp_path / 'cifar', '--to', tmp_path / 'root')
    for text in ('<annotation>', '<annotation><size/></annotation>', '<annotation><object/></annotation>'):
        xml = _bccd(tmp_path / 'bccd') / 'Annotations/BloodImage_00001.xml'
        xml.write_text(text)
        with pytest.raises(SystemExit, match=f'bccd: {xml} is damaged'):
            main('bccd', '--from', tmp_path / 'bccd', '--to', tmp_path / 'root')


def test_a_damaged_archive_that_the_configs_read_is_counted_as_one(data_root, tmp_path, capsys):
    whole = (data_root / 'cifar10.tar.gz').read_bytes()
    (tmp_path / 'cifar10.tar.gz').write_bytes(whole[:100_000])
    assert main('cifar10', '--to', tmp_path) == 1
    assert 'cifar10.tar.gz:cifar10/train/*/*: damaged' in capsys.readouterr().out


def _bccd(folder: Path) -> Path:
    """BCCD as it is published, with one image in a list."""
    for name in ('Annotations', 'ImageSets/Main', 'JPEGImages'):
        (folder / 'BCCD' / name).mkdir(parents=True, exist_ok=True)
    for split in ('train', 'val', 'test'):
        (folder / f'BCCD/ImageSets/Main/{split}.txt').write_text('BloodImage_00001' if split == 'train' else '')
    return folder / 'BCCD'


def test_what_is_there_stays(data_root, tmp_path):
    _bccd(tmp_path)
    (tmp_path / 'PennFudanPed/PNGImages').mkdir(parents=True)
    (tmp_path / 'PennFudanPed/PedMasks').symlink_to(data_root / 'penn_fudan/masks')
    (tmp_path / 'cifar-10-batches-py').mkdir()
    mine = [
        *(tmp_path / f'bccd/annotations/{split}.json' for split in ('train', 'val', 'test')),
        *(tmp_path / f'penn_fudan/annotations/instances_{split}.json' for split in ('train', 'val')),
        tmp_path / 'cifar10/cifar10.tar.gz',
    ]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('mine')
    for name in ('bccd', 'penn_fudan', 'cifar10'):
        prepare(SOURCES[name], tmp_path, tmp_path / name)
    assert [path.read_text() for path in mine] == ['mine'] * len(mine)


def test_links_to_what_has_moved_are_made_again(tmp_path):
    (tmp_path / 'old/train2017').mkdir(parents=True)
    (tmp_path / 'old/train2017/1.jpg').touch()
    prepare(SOURCES['coco'], tmp_path / 'old', tmp_path / 'coco')
    shutil.move(tmp_path / 'old', tmp_path / 'new')
    prepare(SOURCES['coco'], tmp_path / 'new', tmp_path / 'coco')
    assert (tmp_path / 'coco/train2017').resolve() == tmp_path / 'new/train2017'
    # what is there already is not what was given
    (tmp_path / 'empty').mkdir()
    with pytest.raises(SystemExit, match='empty holds nothing of COCO'):
        main('coco', '--from', tmp_path / 'empty', '--to', tmp_path / 'coco')


def test_a_download_is_not_given_as_well(tmp_path, capsys):
    with pytest.raises(SystemExit, match='2'):
        main('coco', '--download', '--from', tmp_path, '--to', tmp_path)
    assert 'give one of them' in capsys.readouterr().err


def test_what_is_fetched_is_built(any_checksum, tmp_path, monkeypatch):
    def fetch_(file, folder):
        label = file.name.partition('-python')[0]
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / file.name, 'w:gz') as tar:
            tar.addfile(tarfile.TarInfo('cifar-10-batches-py/x' if label == 'cifar-10' else 'cifar-100-python/x'))

    made = []
    monkeypatch.setattr('mmsnn.datasets.preparing.fetch', fetch_)
    monkeypatch.setattr(making, '_write_images', lambda source, given, archive: made.append((given, archive)))
    # two sets in one folder
    for name in ('cifar10', 'cifar100'):
        main(name, '--download', '--to', tmp_path)
    published = ('cifar-10-python.tar.gz', 'cifar-100-python.tar.gz')
    unpacked = [tmp_path / 'unpacked' / name for name in published]
    assert made == [(unpacked[0], tmp_path / 'cifar10.tar.gz'), (unpacked[1], tmp_path / 'cifar100.tar.gz')]


def test_without_spikingjelly_its_lists_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'spikingjelly', None)
    with pytest.raises(SystemExit, match=r"n_mnist: SpikingJelly lists its files: pip install 'mmsnn\[spikingjelly\]'"):
        main('n_mnist', '--to', tmp_path)
    assert main('coco', '--to', tmp_path) == 1


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
        with pytest.raises(ValueError, match='a.tar cannot be unpacked') if name == 'a' else nullcontext():
            making.unpack(archive, tmp_path / f'{name}_folder')
        assert not (tmp_path.parent / 'evil.txt').exists() and not (tmp_path / 'evil.txt').exists()


def _tar(path):
    (path.with_suffix('.txt')).write_text('x')
    with tarfile.open(path.with_suffix('.tar'), 'w') as tar:
        tar.add(path.with_suffix('.txt'), '../evil.txt')
    return path.with_suffix('.tar')


def _zip(path):
    return pack(path.with_suffix('.zip'), **{'../evil.txt': 'x', 'good.txt': 'x'})


CONTENT = bytes(range(256)) * 4096


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `CONTENT`, the first time only a part of it; goes on where it is asked to."""

    calls: list = []

    def do_GET(self):
        begin = int((self.headers.get('Range') or 'bytes=0-')[6:-1])
        self.calls.append(begin)
        if begin >= len(CONTENT):
            self.send_response(416)
            self.send_header('Content-Range', f'bytes */{len(CONTENT)}')
            self.end_headers()
            return
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


def test_all_that_arrived_before_it_was_moved_is_taken(address, tmp_path):
    (tmp_path / 'set.bin.part').write_bytes(CONTENT)
    assert fetch(File('set.bin', address, hashlib.md5(CONTENT).hexdigest()), tmp_path).read_bytes() == CONTENT
    assert Server.calls == [len(CONTENT)]
    # more than there is, which no checksum tells of a file that has none
    (tmp_path / 'other.bin.part').write_bytes(CONTENT + b'x')
    with pytest.raises(ValueError, match=f'{len(CONTENT) + 1} bytes came of {len(CONTENT)}; what was fetched is rem'):
        fetch(File('other.bin', address), tmp_path)
    assert not (tmp_path / 'other.bin.part').exists()


def test_an_answer_that_breaks_off_names_the_address(address, tmp_path, monkeypatch):
    def do_GET(self):
        self.send_response(200)
        self.send_header('Transfer-Encoding', 'chunked')
        self.end_headers()
        self.wfile.write(b'64\r\n' + bytes(100) + b'\r\n64\r\nabc')
        self.close_connection = True

    monkeypatch.setattr(Server, 'protocol_version', 'HTTP/1.1')
    monkeypatch.setattr(Server, 'do_GET', do_GET)
    with pytest.raises(OSError, match=f'{address}: IncompleteRead'):
        fetch(File('set.bin', address), tmp_path)


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
        n_caltech101='ncaltech101', n_mnist='nmnist', gen1='gen1',
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
