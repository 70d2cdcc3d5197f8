"""Files in the sets' own formats, through SpikingJelly, to frames, batches and a training step."""

import hashlib
import shutil
import struct
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import Runner

from mmsnn.datasets import LoadEventFrames, event_frames
from mmsnn.engine.checks import check_data

jelly = pytest.importorskip('spikingjelly.datasets', reason='event datasets need the extra `spikingjelly`')

T = 3
PIPELINE = [dict(type='mmsnn.LoadEventFrames'), dict(type='mmsnn.EventResize', size=32), dict(type='PackInputs')]
# recordings a class
COUNT = 11


def events(seed: int, size, number: int = 50, start: int = 0) -> dict:
    """Random events in the order of time, microseconds."""
    rng = np.random.default_rng(seed)
    t = start + np.sort(rng.choice(1000, number, replace=False))
    y, x, p = (rng.integers(limit, size=number) for limit in (*size, 2))
    return dict(t=t, x=x, y=y, p=p)


def expected(e: dict, size) -> np.ndarray:
    """Counts in T frames of as many events each, the rest in the last: written out."""
    frames, each = np.zeros((T, 2, *size)), len(e['t']) // T
    for i in range(len(e['t'])):
        frames[min(i // each, T - 1), e['p'][i], e['y'][i], e['x'][i]] += 1
    return frames


def aedat2(e: dict) -> bytes:
    """CIFAR10-DVS: big-endian address and time; the camera stands on its head and counts OFF as 1."""
    address = (127 - e['x']) << 8 | (127 - e['y']) << 1 | (1 - e['p'])
    header = b'#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n'
    return header + np.stack([address, e['t']], 1).astype('>u4').tobytes()


def atis(e: dict) -> bytes:
    """N-Caltech101: x, y, polarity and 23 bits of time, in five bytes."""
    t = e['t']
    columns = [e['x'], e['y'], e['p'] << 7 | t >> 16, t >> 8 & 255, t & 255]
    return np.stack(columns, 1).astype(np.uint8).tobytes()


def aedat3(e: dict, packet: int = 20) -> bytes:
    """DVS128 Gesture: packets of polarity events behind headers of 28 bytes, and one packet of another kind."""
    out = b'#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n'
    out += struct.pack('<HHIIIIII', 0, 1, 8, 4, 0, 1, 1, 1) + struct.pack('<II', 1, 0)
    for i in range(0, len(e['t']), packet):
        t, x, y, p = (e[key][i : i + packet].astype(np.uint32) for key in 'txyp')
        out += struct.pack('<HHIIIIII', 1, 1, 8, 4, 0, len(t), len(t), len(t))
        out += np.stack([x << 17 | y << 2 | p << 1 | 1, t], 1).astype('<u4').tobytes()
    return out


def zipped(path: Path, files: dict) -> None:
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_cifar10_dvs(folder: Path, damage=lambda name, content: content) -> None:
    for k, kind in enumerate(('airplane', 'cat')):
        files = {
            name: damage(name, aedat2(events(100 * k + i, (128, 128))))
            for i in range(COUNT)
            for name in [f'{kind}/cifar10_{kind}_{i}.aedat']
        }
        zipped(folder / f'{kind}.zip', files)


def write_ncaltech101(folder: Path, damage=lambda name, content: content) -> None:
    files = {
        name: damage(name, atis(events(100 * k + i, (180, 240))))
        for k, kind in enumerate(('BACKGROUND_Google', 'accordion', 'airplanes'))
        for i in range(COUNT)
        for name in [f'Caltech101/{kind}/image_{i + 1:04d}.bin']
    }
    zipped(folder / 'Caltech101.zip', files)
    (folder / 'ReadMe(Caltech101).txt').write_text('read me')


def write_nmnist(folder: Path, damage=lambda name, content: content) -> None:
    for split in range(2):
        which = ('Train', 'Test')[split]
        files = {
            name: damage(name, atis(events(1000 * split + 100 * k + i, (34, 34))))
            for k in (1, 7)
            for i in range(COUNT - 4 * split)
            for name in [f'{which}/{k}/{i:05d}.bin']
        }
        zipped(folder / f'{which}.zip', files)


def write_dvs128_gesture(folder: Path, damage=lambda name, content: content, tail: int = 20) -> None:
    """Two persons in training, one in testing; all eleven gestures one after the other, ``tail`` events after them."""
    source = folder / 'DvsGesture'
    source.mkdir()
    for user in (1, 2, 24):
        trials = [events(100 * user + k, (128, 128), start=10_000 * (k + 1)) for k in range(11)]
        trials.append(events(0, (128, 128), tail, start=200_000))
        whole = {key: np.concatenate([e[key] for e in trials]) for key in 'txyp'}
        name = f'user{user:02d}_led.aedat'
        (source / name).write_bytes(damage(name, aedat3(whole)))
        rows = [f'{k + 1},{10_000 * (k + 1)},{10_000 * (k + 1) + 1000}' for k in range(11)]
        (source / f'user{user:02d}_led_labels.csv').write_text(
            'class,startTime_usec,endTime_usec\n' + '\n'.join(rows) + '\n'
        )
    (source / 'trials_to_train.txt').write_text('user01_led.aedat\nuser02_led.aedat\n\n')
    (source / 'trials_to_test.txt').write_text('user24_led.aedat\n')
    with tarfile.open(folder / 'DvsGesture.tar.gz', 'w:gz') as archive:
        archive.add(source, 'DvsGesture')
    shutil.rmtree(source)


WRITE = dict(
    CIFAR10DVS=write_cifar10_dvs,
    NCaltech101=write_ncaltech101,
    NMNIST=write_nmnist,
    DVS128Gesture=write_dvs128_gesture,
)


def publish(monkeypatch, source: str, root: Path, **kwargs) -> Path:
    """Write the set's archives to ``root/download``, and have SpikingJelly expect them."""
    folder = root / 'download'
    folder.mkdir(parents=True)
    WRITE[source](folder, **kwargs)
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    listed = [(name, f'https://example.org/{name}', md5) for name, md5 in sums.items()]
    monkeypatch.setattr(getattr(jelly, source), 'resource_url_md5', classmethod(lambda cls: listed))
    return root


def build(name: str, root: Path, **kwargs):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        # serialising collects garbage, which takes a while beside torch
        return DATASETS.build(dict(type=f'mmsnn.{name}', data_root=str(root), T=T, serialize_data=False, **kwargs))


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    """A root of each set, prepared."""
    roots = {}
    for name in WRITE:
        with pytest.MonkeyPatch.context() as monkeypatch:
            roots[name] = publish(monkeypatch, name, tmp_path_factory.mktemp(name))
            build(name, roots[name])
    return roots


def frames_of(data, i: int) -> np.ndarray:
    return LoadEventFrames()(data.get_data_info(i))['img']


def test_cifar10_dvs_frames(prepared):
    data = build('CIFAR10DVS', prepared['CIFAR10DVS'])
    assert data.CLASSES[3] == 'cat' and sorted(set(data.get_gt_labels())) == [0, 3]
    for i, seed in ((0, 0), (2, 2), (10, 100), (19, 109)):
        want = expected(events(seed, (128, 128)), (128, 128))
        np.testing.assert_array_equal(frames_of(data, i), want)


def test_ncaltech101_frames(prepared):
    data = build('NCaltech101', prepared['NCaltech101'])
    assert data.metainfo['classes'] == ('BACKGROUND_Google', 'accordion', 'airplanes')
    for i in (0, 13, 29):
        info = data.get_data_info(i)
        seed = 100 * info['gt_label'] + int(Path(info['img_path']).stem[-4:]) - 1
        np.testing.assert_array_equal(frames_of(data, i), expected(events(seed, (180, 240)), (180, 240)))


def test_nmnist_frames_and_official_split(prepared):
    train, test = build('NMNIST', prepared['NMNIST']), build('NMNIST', prepared['NMNIST'], split='test')
    assert train.get_gt_labels().tolist() == 11 * [1] + 11 * [7] and test.get_gt_labels().tolist() == 7 * [1] + 7 * [7]
    np.testing.assert_array_equal(frames_of(train, 13), expected(events(702, (34, 34)), (34, 34)))
    np.testing.assert_array_equal(frames_of(test, 13), expected(events(1706, (34, 34)), (34, 34)))


def test_nmnist_that_mmsnn_data_unpacked(tmp_path, monkeypatch):
    """Archives are not asked for again, and recordings behind links are checked."""
    write_nmnist(tmp_path)
    for name in ('Train', 'Test'):
        zipfile.ZipFile(tmp_path / f'{name}.zip').extractall(tmp_path / 'unpacked')
        (tmp_path / 'set/extract').mkdir(parents=True, exist_ok=True)
        (tmp_path / 'set/extract' / name).symlink_to(tmp_path / 'unpacked' / name)
    cut = tmp_path / 'unpacked/Test/7/00003.bin'
    whole = cut.read_bytes()
    cut.write_bytes(whole[:-2])
    with pytest.raises(ValueError, match='00003.bin is truncated'):
        build('NMNIST', tmp_path / 'set')
    cut.write_bytes(whole)
    assert len(build('NMNIST', tmp_path / 'set')) == 22 and len(build('NMNIST', tmp_path / 'set', split='test')) == 14


def test_gesture_frames_and_official_split(prepared):
    root = prepared['DVS128Gesture']
    train, test = build('DVS128Gesture', root), build('DVS128Gesture', root, split='test')
    assert (len(train), len(test)) == (22, 11)
    # as text, 10 comes before 2
    assert train.get_gt_labels().tolist() == sorted(2 * list(range(11)))
    assert train.CLASSES[2] == 'left hand wave' and train.CLASSES[10] == 'other gestures'
    for label in (2, 10):
        want = expected(events(2400 + label, (128, 128)), (128, 128))
        np.testing.assert_array_equal(frames_of(test, label), want)


@pytest.mark.parametrize('name', WRITE)
def test_from_files_to_a_training_step(prepared, name):
    loader = dict(
        dataset=dict(type=f'mmsnn.{name}', data_root=str(prepared[name]), T=T, pipeline=PIPELINE),
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='default_collate'),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        batch = next(iter(Runner.build_dataloader(loader, seed=0)))
        assert batch['inputs'].shape == (2, T, 2, 32, 32) and batch['inputs'].dtype == torch.float32
        backbone = dict(type='mmsnn.SpikingResNet', depth=18, base_channels=8, in_channels=2, T=T, out_indices=(3,))
        model = MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=backbone,
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=11, in_channels=64),
                data_preprocessor=dict(type='mmsnn.EventDataPreprocessor'),
            )
        )
        losses = model.train()(**model.data_preprocessor(batch, True), mode='loss')
    losses['loss'].backward()
    assert torch.isfinite(losses['loss']) and model.backbone.conv1.weight.grad.any()


CONFIGS = Path(__file__).parents[2] / 'configs'
FITTING = [
    ('CIFAR10DVS', 'spiking/spiking_r18_cifar10_dvs', (10, 2, 48, 48)),
    ('CIFAR10DVS', 'spiking/spiking_vgg9_cifar10_dvs', (5, 2, 48, 48)),
    ('CIFAR10DVS', 'tssd/spiking_vgg9_cifar10_dvs', (10, 2, 48, 48)),
    ('CIFAR10DVS', 'spiking/spikformer_2-256_cifar10_dvs', (16, 2, 128, 128)),
    ('CIFAR10DVS', 'tet/spiking_vgg9_cifar10_dvs', (10, 2, 48, 48)),
    ('DVS128Gesture', 'spiking/sew18_dvs128_gesture', (16, 2, 128, 128)),
    ('DVS128Gesture', 'spiking/spiking_vgg9_dvs128_gesture', (8, 2, 48, 48)),
    ('DVS128Gesture', 'tssd/spiking_vgg9_dvs128_gesture', (16, 2, 48, 48)),
    ('NCaltech101', 'spiking/spiking_vgg9_ncaltech101', (10, 2, 48, 48)),
    ('NMNIST', 'spiking/spiking_vgg9_nmnist', (4, 2, 34, 34)),
    ('NMNIST', 'tssd/spiking_vgg9_nmnist', (8, 2, 34, 34)),
]


@pytest.mark.parametrize('name,config,shape', FITTING, ids=[config for _, config, _ in FITTING])
def test_configs_load_what_their_networks_take(prepared, name, config, shape):
    cfg = Config.fromfile(CONFIGS / f'{config}.py')
    for part in ('train', 'val', 'test'):
        cfg[f'{part}_dataloader'].dataset.update(data_root=str(prepared[name]), serialize_data=False)
    check_data(cfg)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        for part in ('train', 'test'):
            loader = dict(cfg[f'{part}_dataloader'], num_workers=0, batch_size=2)
            batch = next(iter(Runner.build_dataloader(loader, seed=0)))
            assert torch.stack(list(batch['inputs'])).shape == (2, *shape)
            assert MODELS.build(cfg.data_preprocessor)(batch)['inputs'].shape == (2, *shape)
    if 'model' in cfg:
        student = cfg.model.get('student', cfg.model)
        assert shape[0] == student.backbone.T and student.head.num_classes == cfg.data_preprocessor.num_classes


def names(data) -> list[str]:
    return [Path(data.get_data_info(i)['img_path']).stem for i in range(len(data))]


@pytest.mark.parametrize('order,tested', [('number', 10), ('name', 9), ('tebn', 0)])
def test_cifar10_dvs_splits(prepared, order, tested):
    """Of 0 to 10: the last by number, the last as text, the first."""
    root = prepared['CIFAR10DVS']
    train, test = (names(build('CIFAR10DVS', root, split=split, order=order)) for split in ('train', 'test'))
    assert test == [f'cifar10_airplane_{tested}', f'cifar10_cat_{tested}']
    assert len(train) == 20 and not set(train) & set(test)


def test_split_by_name_is_spikingjellys(prepared):
    root = prepared['CIFAR10DVS']
    whole = jelly.CIFAR10DVS(root, data_type='frame', frames_number=T, split_by='number')
    part = jelly.split_to_train_test_set(0.9, whole, 2)[0]
    ours = build('CIFAR10DVS', root, order='name')
    assert sorted(names(ours)) == sorted(Path(whole.samples[i][0]).stem for i in part.indices)


def test_nine_hundred_and_a_hundred():
    files = [f'cifar10_cat_{i}.npz' for i in range(1000)]
    for order, first in (('number', 900), ('tebn', 0)):
        data = event_frames.CIFAR10DVS.__new__(event_frames.CIFAR10DVS)
        data.order, data.split = order, 'test'
        assert data.choose(files, 0) == files[first : first + 100]
        data.split = 'train'
        assert sorted([*data.choose(files, 0), *files[first : first + 100]]) == sorted(files)


def test_ncaltech101_split_is_drawn_by_its_seed(prepared):
    root = prepared['NCaltech101']

    def tested(seed):
        train, test = (names(build('NCaltech101', root, split=split, seed=seed)) for split in ('train', 'test'))
        assert (len(train), len(test)) == (30, 3)
        return test, train

    np.random.seed(7)
    assert tested(0) == tested(0)
    assert len({tuple(tested(seed)[0]) for seed in range(4)}) > 1
    assert len(set(tested(1)[0])) > 1, 'the same recording of every class'


@pytest.mark.parametrize('name', WRITE)
def test_missing_files_are_listed_as_spikingjelly_lists_them(tmp_path, name):
    with pytest.raises(FileNotFoundError) as caught:
        build(name, tmp_path / 'set')
    message = str(caught.value)
    for file, url, md5 in getattr(jelly, name).resource_url_md5():
        assert all(part in message for part in (file, url, md5))
    assert str(tmp_path / 'set' / 'download') in message
    assert ('download=True' in message) == (name == 'CIFAR10DVS')
    assert not list(tmp_path.iterdir())


def test_one_missing_file_is_marked(tmp_path, monkeypatch):
    root = publish(monkeypatch, 'CIFAR10DVS', tmp_path / 'set')
    (root / 'download' / 'cat.zip').unlink()
    with pytest.raises(FileNotFoundError, match=r'MISSING  cat.zip'):
        build('CIFAR10DVS', root)


def test_download_is_spikingjellys(tmp_path, monkeypatch):
    root, kept = publish(monkeypatch, 'CIFAR10DVS', tmp_path / 'set'), tmp_path / 'kept'
    (root / 'download').rename(kept)
    fetched = []

    def fetch(url, root, filename, md5):
        fetched.append(url)
        shutil.copy(kept / filename, root)

    monkeypatch.setattr(sys.modules['spikingjelly.datasets.base'], 'download_url', fetch)
    assert len(build('CIFAR10DVS', root, download=True)) == 20
    assert sorted(fetched) == ['https://example.org/airplane.zip', 'https://example.org/cat.zip']


def test_nothing_is_fetched_unasked(tmp_path, monkeypatch):
    """SpikingJelly's check of a damaged file would fetch it again."""
    root = publish(monkeypatch, 'CIFAR10DVS', tmp_path / 'set')
    whole = (root / 'download' / 'cat.zip').read_bytes()
    (root / 'download' / 'cat.zip').write_bytes(whole[:-7])
    monkeypatch.setattr(
        sys.modules['spikingjelly.datasets.base'], 'download_url', lambda **_: pytest.fail('fetched unasked')
    )
    with pytest.raises(ValueError, match='cat.zip'):
        build('CIFAR10DVS', root)
    # and what had begun is undone: with a whole file it works
    assert [p.name for p in root.iterdir()] == ['download']
    (root / 'download' / 'cat.zip').write_bytes(whole)
    assert len(build('CIFAR10DVS', root)) == 20


CUT = {
    'CIFAR10DVS': ('cat/cifar10_cat_4.aedat', [-3, 20]),
    'NCaltech101': ('Caltech101/accordion/image_0003.bin', [-1, 0]),
    # in the last event; in a packet's header; behind a packet and in one, long before the last gesture; in that gesture
    'DVS128Gesture': ('user02_led.aedat', [-3, 67 + 36 + 10, 67 + 36 + 28 + 160, 67 + 36 + 28 + 160 + 28 + 80, -228]),
}


@pytest.mark.parametrize('name,kept', [(name, kept) for name, (_, ends) in CUT.items() for kept in ends])
def test_truncated_recordings_are_named(tmp_path, monkeypatch, name, kept):
    victim = CUT[name][0]

    def damage(file, content):
        return content[:kept] if file == victim else content

    root = publish(monkeypatch, name, tmp_path / 'set', damage=damage)
    with pytest.raises(ValueError, match=Path(victim).name):
        build(name, root)
    assert [p.name for p in root.iterdir()] == ['download']


def test_a_packet_cut_behind_the_last_gesture_does_no_harm(tmp_path, monkeypatch):
    root = publish(monkeypatch, 'DVS128Gesture', tmp_path / 'set', damage=lambda _, content: content[:-80])
    assert len(build('DVS128Gesture', root)) == 22


def test_damaged_events_are_named(tmp_path, prepared):
    root = shutil.copytree(prepared['NCaltech101'], tmp_path / 'set')
    victim = root / 'events_np' / 'accordion' / 'image_0004.npz'
    victim.write_bytes(victim.read_bytes()[:200])
    for _ in range(2):
        with pytest.raises(ValueError, match='accordion/image_0004.npz'):
            build('NCaltech101', root, split_by='time')
        assert not (root / f'frames_number_{T}_split_by_time').exists()


def test_times_without_events_are_explained(tmp_path, monkeypatch):
    late = events(0, (180, 240))
    late['t'] = np.r_[late['t'][:-1] % 10, 8_000_000]
    root = publish(
        monkeypatch,
        'NCaltech101',
        tmp_path / 'set',
        damage=lambda name, content: atis(late) if '0002' in name else content,
    )
    with pytest.raises(ValueError, match=r"image_0002.npz gives no 3 frames.*split_by='number'"):
        build('NCaltech101', root, split_by='time')
    assert len(build('NCaltech101', root)) == 30


def inflating(path: Path, name: str) -> None:
    """An array of two gigabytes of zeros in two megabytes."""
    with (
        zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(f'{name}.npy', 'w', force_zip64=True) as record,
    ):
        np.lib.format.write_array_header_1_0(record, dict(descr='<f4', fortran_order=False, shape=(1 << 29,)))
        for _ in range(128):
            record.write(bytes(1 << 24))


def claiming(path: Path, name: str) -> None:
    """A header of an array that is not there."""
    with zipfile.ZipFile(path, 'w') as archive, archive.open(f'{name}.npy', 'w') as record:
        np.lib.format.write_array_header_1_0(record, dict(descr='<f4', fortran_order=False, shape=(1 << 45,)))


def test_claims_of_events_are_refused(tmp_path, prepared):
    root = shutil.copytree(prepared['NCaltech101'], tmp_path / 'set')
    inflating(root / 'events_np' / 'accordion' / 'image_0004.npz', 't')
    with pytest.raises(ValueError, match='accordion/image_0004.npz claims to hold 2147483'):
        build('NCaltech101', root, split_by='time')
    assert not (root / f'frames_number_{T}_split_by_time').exists()


@pytest.mark.parametrize('claim', [inflating, claiming])
def test_claims_of_frames_are_refused(tmp_path, claim):
    claim(tmp_path / 'a.npz', 'frames')
    with pytest.raises(
        ValueError, match='a.npz holds no frames .*(claims to hold|Unable to allocate|cannot reshape|EOF)'
    ):
        LoadEventFrames()(dict(img_path=str(tmp_path / 'a.npz')))


@pytest.mark.parametrize('damage', ['cut', 'empty', 'no frames', 'no events'])
def test_damaged_frames_are_named(tmp_path, damage):
    path = tmp_path / 'frames_number_3_split_by_number' / 'cat' / 'a.npz'
    path.parent.mkdir(parents=True)
    np.savez_compressed(path, **{'x' if damage == 'no frames' else 'frames': np.zeros((T, 2, 4, 4))})
    if damage == 'cut':
        path.write_bytes(path.read_bytes()[:100])
    elif damage == 'empty':
        path.write_bytes(b'')
    with pytest.raises(ValueError, match='cat/a.npz'):
        LoadEventFrames()(dict(img_path=str(path)))


def test_first_frames(prepared):
    info = build('CIFAR10DVS', prepared['CIFAR10DVS']).get_data_info(0)
    whole = LoadEventFrames()(dict(info))
    np.testing.assert_array_equal(LoadEventFrames(first=2)(dict(info))['img'], whole['img'][:2])
    assert whole['img_shape'] == whole['ori_shape'] == (128, 128)
    with pytest.raises(ValueError, match='T at least 4'):
        LoadEventFrames(first=4)(dict(info))


def test_interrupted_preparation_leaves_nothing(tmp_path, monkeypatch):
    root = publish(monkeypatch, 'CIFAR10DVS', tmp_path / 'set')

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(jelly.CIFAR10DVS, 'get_H_W', interrupt)
        with pytest.raises(KeyboardInterrupt):
            build('CIFAR10DVS', root)
    assert [p.name for p in root.iterdir()] == ['download']
    assert len(build('CIFAR10DVS', root)) == 20


def test_anothers_preparation_is_left_alone(tmp_path, monkeypatch):
    root = publish(monkeypatch, 'CIFAR10DVS', tmp_path / 'set')
    (root / 'events_np.building').touch()
    (root / 'extract').mkdir()
    with pytest.raises(ValueError, match='events_np.building'):
        build('CIFAR10DVS', root)
    assert (root / 'events_np.building').exists() and (root / 'extract').exists()

    # the other goes on meanwhile
    def fail(_):
        (root / 'events_np').mkdir()
        raise RuntimeError('unfinished')

    monkeypatch.setattr(jelly.CIFAR10DVS, 'prepare_raw_dataset', fail)
    with pytest.raises(ValueError, match='unfinished'):
        build('CIFAR10DVS', root)
    assert (root / 'events_np').exists()


def test_one_process_prepares_what_the_others_wait_for(tmp_path, monkeypatch):
    root = publish(monkeypatch, 'CIFAR10DVS', tmp_path / 'set')
    waited = []

    def barrier():
        waited.append((root / 'events_np').exists())
        with monkeypatch.context() as context:
            context.setattr(event_frames.dist, 'is_main_process', lambda: True)
            context.setattr(event_frames.dist, 'barrier', lambda: None)
            build('CIFAR10DVS', root)

    monkeypatch.setattr(event_frames.dist, 'is_main_process', lambda: False)
    monkeypatch.setattr(event_frames.dist, 'barrier', barrier)
    assert len(build('CIFAR10DVS', root)) == 20
    assert waited == [False]


def test_others_do_not_wait_for_a_process_that_failed(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(event_frames.dist, 'barrier', lambda: waited.append(True))
    with pytest.raises(FileNotFoundError):
        build('CIFAR10DVS', tmp_path / 'set')
    assert waited == [True]


def test_without_spikingjelly_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'spikingjelly', None)
    with pytest.raises(ImportError, match=r'mmsnn\[spikingjelly\]'):
        build('CIFAR10DVS', tmp_path)


@pytest.mark.parametrize('wrong', [dict(split='val'), dict(split_by='duration'), dict(order='first'), dict(T=0)])
def test_bad_settings_are_named(tmp_path, wrong):
    key, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f'dataset.{key}.*{value}'):
        event_frames.CIFAR10DVS(str(tmp_path), **wrong)
