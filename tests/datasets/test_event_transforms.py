import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope
from mmpretrain.models.utils import ClsDataPreprocessor
from mmpretrain.structures import DataSample

import mmsnn  # noqa: F401
from mmsnn.datasets import (
    EventCutout,
    EventRandomCrop,
    EventRandomFlip,
    EventResize,
    EventRoll,
    NeuromorphicAugment,
    PackEventDetInputs,
)
from mmsnn.models import EventDataPreprocessor

RANDOM = [
    EventRandomFlip(),
    EventRandomCrop(24, padding=4),
    EventRoll(),
    EventCutout(8),
    NeuromorphicAugment(cutout=8),
]
T, H, W = 4, 24, 32


def frames(same=False):
    """Random counts; ``same``: in all frames."""
    x = np.random.default_rng(1).poisson(1.0, (T, 2, H, W)).astype(np.float32)
    return np.broadcast_to(x[:1], x.shape).copy() if same else x


def results(**kwargs):
    return dict(img=frames(), img_shape=(H, W), **kwargs)


@pytest.mark.parametrize('transform', RANDOM, ids=lambda t: type(t).__name__)
def test_alike_in_all_frames_and_drawn_from_numpy(transform):
    seen = []
    for _ in range(12):
        state = np.random.get_state()
        out = transform(dict(img=frames(same=True)))['img']
        assert (out == out[:1]).all()
        seen.append(out.tobytes())
        np.random.set_state(state)
        assert transform(dict(img=frames(same=True)))['img'].tobytes() == seen[-1]
    assert len(set(seen)) > 1


@pytest.mark.parametrize('transform', [*RANDOM, EventResize((12, 20))], ids=lambda t: type(t).__name__)
def test_shape_type_and_input_are_kept(transform):
    given = frames()
    before = given.copy()
    out = transform(dict(img=given))
    assert out['img'].dtype == np.float32 and out['img'].flags.c_contiguous
    assert out['img'].shape[:2] == (T, 2) and out['img_shape'] == out['img'].shape[2:]
    np.testing.assert_array_equal(given, before)


def test_flip_moves_boxes():
    boxes = torch.tensor([[2.0, 3.0, 10.0, 9.0]])
    out = EventRandomFlip(1.0)(results(gt_bboxes=HorizontalBoxes(boxes.clone())))
    np.testing.assert_array_equal(out['img'], frames()[:, :, :, ::-1])
    assert out['gt_bboxes'].tensor.tolist() == [[W - 10, 3, W - 2, 9]]
    assert out['flip'] and out['flip_direction'] == 'horizontal'
    out = EventRandomFlip(0.0)(results(gt_bboxes=HorizontalBoxes(boxes.clone())))
    np.testing.assert_array_equal(out['img'], frames())
    assert out['gt_bboxes'].tensor.equal(boxes) and not out['flip']


def test_resize():
    out = EventResize((H // 2, W // 4), mode='area')(
        results(gt_bboxes=HorizontalBoxes(torch.tensor([[4.0, 4.0, 8.0, 12.0]])), scale_factor=(1.0, 1.0))
    )
    want = frames().astype(np.float64).reshape(T, 2, H // 2, 2, W // 4, 4).mean((3, 5))
    np.testing.assert_allclose(out['img'], want, rtol=1e-6)
    assert out['gt_bboxes'].tensor.tolist() == [[1, 2, 2, 6]]
    assert out['scale_factor'] == (0.25, 0.5)


def test_crop_takes_every_window():
    x = np.arange(1, 10, dtype=np.float32).reshape(1, 1, 3, 3)
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = {padded[..., i : i + 3, j : j + 3].tobytes() for i in range(3) for j in range(3)}
    crop = EventRandomCrop(3, padding=1)
    assert {crop(dict(img=x))['img'].tobytes() for _ in range(200)} == windows


def test_roll_reaches_its_limit_and_no_further():
    x = np.zeros((1, 1, 21, 21), np.float32)
    x[..., 10, 10] = 1
    places = [np.argwhere(EventRoll(3)(dict(img=x))['img'][0, 0])[0] - 10 for _ in range(400)]
    assert {int(v) for v in np.ravel(places)} == set(range(-3, 4))


def test_cutout_blanks_a_square():
    x = np.ones((2, 2, 20, 20), np.float32)
    areas = set()
    for _ in range(100):
        hole = EventCutout(6)(dict(img=x))['img'][0, 0] == 0
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        areas.add(int(hole.sum()))
    assert max(areas) == 36 and min(areas) >= 9


@pytest.mark.parametrize('kept', ['roll', 'rotate', 'shear', 'cutout'])
def test_nda_draws_what_it_is_given(kept):
    nothing = dict(roll=0, rotate=0.0, shear=0.0, cutout=0)
    transform = NeuromorphicAugment(**{**nothing, kept: 6})
    assert any((transform(dict(img=frames()))['img'] != frames()).any() for _ in range(5))
    assert list(transform.amounts) == [kept]


def test_nda_shear_is_along_x():
    """A row of the picture stays a row; a rotation by as much would move it."""
    x = np.zeros((1, 1, 31, 31), np.float32)
    x[..., 5, :] = 1
    for _ in range(5):
        out = NeuromorphicAugment(roll=0, rotate=0, shear=30)(dict(img=x))['img'][0, 0]
        assert not np.delete(out, 5, axis=0).any() and out[5].any()


@pytest.mark.parametrize('transform', [t for t in RANDOM if not t.moves_boxes], ids=lambda t: type(t).__name__)
def test_boxes_that_would_not_move_are_refused(transform):
    with pytest.raises(ValueError, match='does not move boxes'):
        transform(results(gt_bboxes=HorizontalBoxes(torch.zeros(1, 4))))


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match=r'EventResize.size'):
        EventResize(0)
    with pytest.raises(ValueError, match='NeuromorphicAugment'):
        NeuromorphicAugment(0, 0, 0, 0)
    with pytest.raises(ValueError, match='no room for size'):
        EventRandomCrop(64, padding=4)(results())
    with pytest.raises(ValueError, match=r'\[T, C, H, W\]'):
        EventRoll()(dict(img=np.zeros((32, 32, 3), np.float32)))


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmdet'])
def test_built_in_every_scope(scope):
    with DefaultScope.overwrite_default_scope(scope):
        assert isinstance(TRANSFORMS.build(dict(type='mmsnn.EventRoll')), EventRoll)
        assert isinstance(MODELS.build(dict(type='mmsnn.EventDataPreprocessor')), EventDataPreprocessor)


def test_mmpretrain_packs_frames_as_they_are():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        packed = TRANSFORMS.build(dict(type='PackInputs'))(results(gt_label=3))
    assert packed['inputs'].equal(torch.from_numpy(frames()))
    assert packed['data_samples'].gt_label.tolist() == [3]


def test_detection_packer_keeps_frames_and_instances():
    instances = [dict(bbox=[0, 0, 4, 4], bbox_label=1, ignore_flag=0)]
    boxes, labels = HorizontalBoxes(torch.tensor([[0.0, 0.0, 4.0, 4.0]])), np.array([1])
    packed = PackEventDetInputs()(results(gt_bboxes=boxes, gt_bboxes_labels=labels, instances=instances, img_id=7))
    assert packed['inputs'].equal(torch.from_numpy(frames()))
    sample = packed['data_samples']
    assert sample.instances == instances and sample.img_id == 7 and sample.gt_instances.labels.tolist() == [1]


def test_preprocessor_pads_height_and_width():
    """Not T and C, which mmdet's would take for the height of a [C, H, W]."""
    pre = EventDataPreprocessor(pad_size_divisor=16)
    small, large = torch.rand(3, 2, 20, 30), torch.rand(3, 2, 33, 17)
    samples = [DetDataSample(), DetDataSample()]
    out = pre(dict(inputs=[small, large], data_samples=samples))
    assert out['inputs'].shape == (2, 3, 2, 48, 32)
    assert out['inputs'][0, :, :, :20, :30].equal(small) and out['inputs'][1, :, :, :33, :17].equal(large)
    assert out['inputs'].sum(dtype=float).item() == pytest.approx(
        small.sum(dtype=float).item() + large.sum(dtype=float).item()
    )
    assert [s.pad_shape for s in out['data_samples']] == [(32, 32), (48, 32)]
    assert {s.batch_input_shape for s in out['data_samples']} == {(48, 32)}


def test_preprocessor_takes_stacked_batches_and_integers():
    stacked = torch.randint(5, (3, 4, 2, 8, 8), dtype=torch.uint8)
    samples = [DataSample().set_gt_label(i) for i in range(3)]
    out = EventDataPreprocessor()(dict(inputs=stacked, data_samples=samples))
    assert out['inputs'].equal(stacked.float())
    assert [s.gt_label.item() for s in out['data_samples']] == [0, 1, 2]
    assert EventDataPreprocessor()(dict(inputs=stacked))['data_samples'] is None


@pytest.mark.parametrize('augment', ['Mixup', 'CutMix'])
def test_batch_augments_see_a_clip_as_one_image(augment):
    """CutMix on five dimensions would cut channels and rows."""
    x, mixed = torch.rand(2, 3, 2, 16, 16), 0
    settings = dict(num_classes=2, batch_augments=dict(augments=dict(type=augment, alpha=1.0)))
    for seed in range(8):
        found = []
        for cls, inputs in ((EventDataPreprocessor, x), (ClsDataPreprocessor, x.flatten(1, 2))):
            np.random.seed(seed)
            torch.manual_seed(seed)
            samples = [DataSample().set_gt_label(i) for i in range(2)]
            out = cls(**settings)(dict(inputs=inputs.clone(), data_samples=samples), training=True)
            found.append((out['inputs'].reshape(x.shape), torch.stack([s.gt_score for s in out['data_samples']])))
        assert all(ours.equal(theirs) for ours, theirs in zip(*found))
        mixed += not found[0][0].equal(x)
    assert mixed


@pytest.mark.parametrize('inputs', [[torch.rand(3, 8, 8)], [torch.rand(3, 2, 8, 8), torch.rand(4, 2, 8, 8)]])
def test_preprocessor_refuses_other_shapes(inputs):
    with pytest.raises(ValueError, match=r'frames \[T, C, H, W\]'):
        EventDataPreprocessor()(dict(inputs=inputs))
