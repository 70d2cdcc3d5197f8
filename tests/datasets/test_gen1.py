"""Recordings and boxes in Prophesee's formats, written by hand."""

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import Runner

from mmsnn.datasets import Gen1, LoadEventWindow
from mmsnn.datasets.gen1 import open_dat, read_boxes
from mmsnn.engine.checks import check_data

HEADER = b'% Data file containing Event2D events.\n% Version 2\n% Date 2020-1-14 15:1:41\n% Height 240\n% Width 304\n'
PIPELINE = [
    dict(type='mmsnn.LoadEventWindow', T=5),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='mmsnn.EventRandomFlip', prob=0.5),
    dict(type='mmsnn.PackEventDetInputs'),
]
# microseconds, x, y, width, height, class: what is wrong stands behind
BOXES = [
    (400_000, 50, 50, 60, 40, 0),  # in the first half second
    (500_000, 50, 50, 60, 40, 0),  # the half second is over afterwards
    (700_000, 50, 50, 60, 40, 0),
    (700_000, 100, 80, 20, 50, 1),
    (700_000, 10, 10, 9.9, 80, 0),  # a side below 10
    (700_000, 10, 10, 20, 22, 0),  # a diagonal below 30
    (900_000, -5, 200, 30, 60, 1),  # reaches outside
    (900_000, 310, 20, 30, 60, 1),  # is outside
    (950_000, 10, 10, 5, 5, 0),  # its time is left without a box
]
FIELDS = [('x', '<f4'), ('y', '<f4'), ('w', '<f4'), ('h', '<f4'), ('class_id', 'u1'), ('track_id', '<u4')]


def random_events(number=4000, end=1_000_000, seed=0) -> dict:
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(end, size=number))
    t[-1] = end - 1
    x, y, p = (rng.integers(limit, size=number) for limit in (304, 240, 2))
    return dict(t=t, x=x, y=y, p=p)


def packed(e: dict) -> bytes:
    return b''.join(
        struct.pack('<II', int(t), int(x) | int(y) << 14 | int(p) << 28) for t, x, y, p in zip(*(e[k] for k in 'txyp'))
    )


def write(folder, name, e=None, boxes=BOXES, time='ts'):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'{name}_td.dat').write_bytes(HEADER + bytes([0, 8]) + packed(e or random_events()))
    array = np.zeros(len(boxes), [(time, '<u8'), *FIELDS])
    for i, box in enumerate(boxes):
        for key, value in zip((time, 'x', 'y', 'w', 'h', 'class_id'), box):
            array[key][i] = value
    np.save(folder / f'{name}_bbox.npy', array)


@pytest.fixture
def root(tmp_path):
    write(tmp_path / 'train', '17-03-30_12-53-58_1037500000_1098500000')
    write(tmp_path / 'train', '17-03-30_12-53-58_1098500000_1158500000', random_events(seed=1), time='t')
    return tmp_path


def build(root, **kwargs):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return DATASETS.build(dict(type='mmsnn.Gen1', data_root=str(root), serialize_data=False, **kwargs))


def test_boxes_are_filtered_and_cut(root):
    data = build(root)
    assert data.metainfo['classes'] == ('car', 'pedestrian')
    samples = [data.get_data_info(i) for i in range(len(data))]
    assert [s['time'] for s in samples] == 2 * [700_000, 900_000]
    assert [s['img_id'] for s in samples] == [0, 1, 2, 3]
    first, second = ([(i['bbox'], i['bbox_label']) for i in s['instances']] for s in samples[:2])
    assert first == [([50, 50, 110, 90], 0), ([100, 80, 120, 130], 1)]
    assert second == [([0, 200, 25, 240], 1)]
    assert all((s['height'], s['width']) == (240, 304) for s in samples)


def test_filter_takes_its_limits_as_the_toolbox():
    """Side and diagonal at the limit stay, the time at the limit goes."""
    boxes = np.zeros(4, [('t', 'i8'), *FIELDS])
    boxes['t'] = [500_001, 500_001, 500_000, 500_001]
    boxes['w'], boxes['h'] = [18, 10, 18, 18], [24, 29, 24, 23.9]
    data = Gen1.__new__(Gen1)
    data.skip, data.min_side, data.min_diagonal = 500_000, 10, 30
    # 18, 24, 30 is a right triangle; 10, 29 has a diagonal above 30
    np.testing.assert_array_equal(data.filter_boxes(boxes), boxes[:2])


@pytest.mark.parametrize('T,duration', [(5, 100_000), (3, 50_000), (1, 699_999)])
def test_frames_of_the_window_before_a_label(root, T, duration):
    e, end = random_events(), 700_000
    want = np.zeros((T, 2, 240, 304))
    for t, x, y, p in zip(*(e[k].tolist() for k in 'txyp')):
        if end - duration <= t < end:
            want[(t - end + duration) * T // duration, p, y, x] += 1
    out = LoadEventWindow(T, duration)(build(root).get_data_info(0))
    np.testing.assert_array_equal(out['img'], want)
    assert out['img'].dtype == np.float32 and want.sum() > 100
    assert out['img_shape'] == out['ori_shape'] == (240, 304)


def test_events_slightly_out_of_order(tmp_path):
    e = random_events()
    # the end of the window falls between two events that have changed places
    i = np.searchsorted(e['t'], 700_000)
    for key in 'txyp':
        e[key][[i - 1, i]] = e[key][[i, i - 1]]
    write(tmp_path / 'train', 'a', e)
    out = LoadEventWindow()(build(tmp_path).get_data_info(0))
    inside = ((e['t'] >= 600_000) & (e['t'] < 700_000)).sum()
    assert inside - 1 <= out['img'].sum() <= inside


def test_a_large_file_is_not_read(tmp_path):
    """16 GB of which nearly all are a hole: opening it and taking a window out of its end touches next to nothing."""
    write(tmp_path / 'train', 'a')
    path = tmp_path / 'train' / 'a_td.dat'
    e, hole = random_events(end=100_000), 2_000_000_000
    e['t'] = e['t'] + 600_000
    with open(path, 'r+b') as file:
        # zeros: events at the time 0, and no line break anywhere
        file.truncate(len(HEADER) + 2 + 8 * hole)
        file.seek(0, 2)
        file.write(packed(e))
    assert path.stat().st_size > 16e9 and path.stat().st_blocks * 512 < 1e6
    resident = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096  # noqa: E731, SIM115
    tracemalloc.start()
    before = resident()
    out = LoadEventWindow()(build(tmp_path).get_data_info(0))
    grown, peak = resident() - before, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert out['img'].sum() == len(e['t'])
    # frames are 2.9 MB; mapped pages count as resident
    assert peak < 32e6 and grown < 64e6


def test_header(tmp_path):
    e = random_events(10)
    path = tmp_path / 'a.dat'
    path.write_bytes(HEADER.replace(b'304', b'640').replace(b'240', b'480') + bytes([12, 8]) + packed(e))
    found, size = open_dat(str(path))
    assert size == (480, 640) and found['t'].tolist() == e['t'].tolist()
    # without a header there are no bytes of type and size
    path.write_bytes(packed(e))
    found, size = open_dat(str(path))
    assert size == (240, 304) and found['t'].tolist() == e['t'].tolist()


def test_a_header_without_an_end_is_not_read_either(tmp_path):
    path = tmp_path / 'a.dat'
    path.write_bytes(b'% ')
    with open(path, 'r+b') as file:
        file.truncate(100_000_000)
    tracemalloc.start()
    with pytest.raises(ValueError, match='a.dat'):
        open_dat(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


@pytest.mark.parametrize(
    'content,message',
    [
        (HEADER + bytes([0, 8]) + packed(random_events(10))[:-3], 'truncated'),
        (HEADER + bytes([0, 8]), 'truncated'),
        (HEADER + bytes([0]), 'type 0 in 0 bytes'),
        (HEADER, 'type 0 in 0 bytes'),
        (b'', 'truncated'),
        (HEADER + bytes([0, 16]) + packed(random_events(10)), 'in 16 bytes'),
        (HEADER + bytes([14, 8]) + packed(random_events(10)), 'type 14'),
    ],
)
def test_damaged_recordings_are_named_at_once(root, content, message):
    victim = root / 'train' / '17-03-30_12-53-58_1098500000_1158500000_td.dat'
    victim.write_bytes(content)
    with pytest.raises(ValueError, match=f'1158500000_td.dat.*{message}'):
        build(root)


def test_a_recording_that_ends_before_a_label_is_named(tmp_path):
    write(tmp_path / 'train', 'a', random_events(end=590_000))
    with pytest.raises(ValueError, match='a_td.dat is truncated: it ends at 589999 us'):
        LoadEventWindow()(build(tmp_path).get_data_info(0))


def test_events_outside_of_the_sensor_are_named(tmp_path):
    e = random_events()
    e['x'][:] = 304
    write(tmp_path / 'train', 'a', e)
    with pytest.raises(ValueError, match='a_td.dat is damaged.*240x304'):
        LoadEventWindow()(build(tmp_path).get_data_info(0))


@pytest.mark.parametrize('damage', ['cut', 'empty', 'fields', 'class'])
def test_damaged_boxes_are_named(root, damage):
    victim = root / 'train' / '17-03-30_12-53-58_1037500000_1098500000_bbox.npy'
    if damage == 'cut':
        victim.write_bytes(victim.read_bytes()[:-7])
    elif damage == 'empty':
        victim.write_bytes(b'')
    elif damage == 'fields':
        np.save(victim, np.zeros(3, [('ts', 'u8'), ('x', 'f4')]))
    else:
        boxes = np.load(victim)
        boxes['class_id'][3] = 2
        np.save(victim, boxes)
    with pytest.raises(ValueError, match='1098500000_bbox.npy'):
        build(root)


@pytest.mark.parametrize('claimed', [1 << 45, 1 << 62, 1 << 80])
def test_claims_of_boxes_are_refused(tmp_path, claimed):
    """Before memory is asked for them."""
    np.save(tmp_path / 'a_bbox.npy', np.zeros(1, [('t', 'u8'), ('x', 'f4')]))
    content = (tmp_path / 'a_bbox.npy').read_bytes()
    # numpy leaves room in the header
    text = f'({claimed},)'.encode()
    content = content.replace(b'(1,)' + b', }' + b' ' * (len(text) - 4), text + b', }')
    assert text in content
    (tmp_path / 'a_bbox.npy').write_bytes(content)
    with pytest.raises(ValueError, match='a_bbox.npy is not a complete .npy file'):
        read_boxes(str(tmp_path / 'a_bbox.npy'))


def test_pickles_are_not_run(tmp_path):
    np.save(tmp_path / 'a_bbox.npy', np.array([dict(t=1)], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match='a_bbox.npy'):
        read_boxes(str(tmp_path / 'a_bbox.npy'))


def test_missing_files_are_named(root):
    with pytest.raises(FileNotFoundError, match='no recordings.*val'):
        build(root, split='val')
    (root / 'train' / '17-03-30_12-53-58_1037500000_1098500000_bbox.npy').unlink()
    with pytest.raises(FileNotFoundError, match='1 files.*1098500000_bbox.npy'):
        build(root)


@pytest.mark.parametrize('wrong', [dict(T=0), dict(T=5, duration=3)])
def test_bad_windows_are_named(wrong):
    with pytest.raises(ValueError, match='LoadEventWindow: T='):
        LoadEventWindow(**wrong)


def detector() -> dict:
    model = get_config('mmdet::_base_/models/retinanet_r50_fpn.py').model
    model['data_preprocessor'] = dict(type='mmsnn.EventDataPreprocessor', pad_size_divisor=32)
    model['backbone'] = dict(type='mmsnn.SEWResNet', depth=18, base_channels=8, in_channels=2, T=5)
    model['neck'].update(in_channels=[8, 16, 32, 64], out_channels=16)
    model['bbox_head'].update(num_classes=2, in_channels=16, feat_channels=16, stacked_convs=1)
    return model


def test_from_files_to_a_training_step_and_predictions(root):
    loader = dict(
        dataset=dict(type='mmsnn.Gen1', data_root=str(root), pipeline=PIPELINE),
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
    )
    with DefaultScope.overwrite_default_scope('mmdet'):
        batch = next(iter(Runner.build_dataloader(loader, seed=0)))
        model = MODELS.build(detector()).train()
        inputs = model.data_preprocessor(batch, True)
        assert inputs['inputs'].shape == (2, 5, 2, 256, 320)
        losses = model(**inputs, mode='loss')
        sum(sum(v) for v in losses.values()).backward()
        assert model.backbone.conv1.weight.grad.any()
        found = model.eval().test_step(batch)
    # the scale and the size at which the metric compares
    assert [s.ori_shape for s in found] == [(240, 304)] * 2 and all('instances' in s for s in found)


def test_config_loads_what_its_network_takes(root):
    for split in ('val', 'test'):
        write(root / split, 'a')
    cfg = Config.fromfile(Path(__file__).parents[2] / 'configs/spiking/retinanet_sew18_gen1.py')
    parts = ('train', 'val', 'test')
    for part in parts:
        cfg[f'{part}_dataloader'].dataset.update(data_root=str(root), serialize_data=False)
    check_data(cfg)
    with DefaultScope.overwrite_default_scope('mmdet'):
        for part in parts:
            loader = dict(cfg[f'{part}_dataloader'], num_workers=0, batch_size=2, persistent_workers=False)
            batch = next(iter(Runner.build_dataloader(loader, seed=0)))
            assert f'/{part}/' in batch['data_samples'][0].img_path
            inputs = MODELS.build(cfg.model.data_preprocessor)(batch)['inputs']
            assert inputs.shape == (2, cfg.model.backbone.T, 2, 256, 320)


def test_coco_metric_builds_its_annotations(root):
    """The labels themselves as predictions are right, at any size; others are not."""
    data = build(root, pipeline=[dict(type='mmsnn.LoadEventWindow'), dict(type='mmsnn.PackEventDetInputs')])
    for shift, want in ((0, 1.0), (200, 0.0)):
        metric = CocoMetric()
        metric.dataset_meta = data.metainfo
        for i in range(len(data)):
            sample = data[i]['data_samples'].to_dict()
            boxes = torch.tensor([instance['bbox'] for instance in sample['instances']]) + shift
            labels = torch.tensor([instance['bbox_label'] for instance in sample['instances']])
            sample['pred_instances'] = dict(bboxes=boxes, labels=labels, scores=torch.ones(len(labels)))
            metric.process({}, [sample])
        assert metric.evaluate(len(data))['coco/bbox_mAP'] == pytest.approx(want)
