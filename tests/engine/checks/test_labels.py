import numpy as np
import pytest
from PIL import Image

import mmsnn  # noqa: F401  before mmseg: it supplies mmcv's compiled ops where they are missing
from mmsnn.engine.checks import check_config

STEPS = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]


@pytest.fixture
def check(tmp_path):
    """Findings about label images that hold these values, by level."""

    def run(
        values, classes=('ground', 'person'), count=3, part='train', image=None, ignore=255, every=False, **changes
    ):
        for folder in ('img', 'ann'):
            (tmp_path / folder).mkdir(exist_ok=True)
        label = np.resize(np.array(values, np.uint8), (8, 9))
        for i in range(count):
            Image.fromarray(label).save(tmp_path / 'img' / f'{i}.png')
            (image or Image.fromarray(label)).save(tmp_path / 'ann' / f'{i}.png')
        dataset = dict(
            type='BaseSegDataset', data_root=str(tmp_path), img_suffix='.png', metainfo=dict(classes=classes),
            data_prefix=dict(img_path='img', seg_map_path='ann'), pipeline=STEPS,
        )  # fmt: skip
        cfg = {
            'default_scope': 'mmseg',
            'model': dict(decode_head=dict(type='FCNHead', num_classes=len(classes), ignore_index=ignore)),
            f'{part}_dataloader': dict(dataset={**dataset, **changes}),
            'val_evaluator': [dict(type='IoUMetric', ignore_index=ignore)],
        }
        found = [one for one in check_config(cfg, every=every) if 'num_classes' not in one.key]
        return {level: [str(one) for one in found if one.level == level] for level in ('error', 'warning', 'note')}

    return run


def the(found, level):
    """The only finding, which is of that level."""
    assert [key for key, value in found.items() if value] == [level] and len(found[level]) == 1, found
    return found[level][0]


def test_values_that_fit(check):
    text = the(check([0, 1, 1, 255]), 'note')
    assert '3 of 3 label images' in text and '1 (50.0%)' in text
    assert the(check([1, 2], reduce_zero_label=True), 'note')
    assert the(check([0, 1, 11], ignore=11), 'note')
    assert "classes that do not occur in these: 'c'" in the(check([0, 1], classes=('a', 'b', 'c')), 'note')


@pytest.mark.parametrize(
    ('values', 'classes', 'remedy'),
    [
        ([0, 254], 2, "Write 1 instead of 254 into the label images, for '1'"),
        ([1, 2], 2, 'train_dataloader.dataset.reduce_zero_label=True'),
        ([1, 2, 3, 255], 3, 'train_dataloader.dataset.reduce_zero_label=True'),
        ([0, 1, 2, 3], 3, 'write num_classes=4 in the heads'),
        ([0, 1, 11], 3, 'model.decode_head.ignore_index=11'),
        ([0, 50, 100, 150], 4, '50, 100, 150 are not classes'),
    ],
)
def test_values_beyond_the_classes(check, values, classes, remedy):
    names = tuple(map(str, range(classes)))
    text = the(check(values, classes=names), 'error')
    assert remedy in text
    assert text.startswith('train_dataloader.dataset: ') and str(values[-2]) in text and f'0 to {classes - 1}' in text


def test_a_class_that_is_ignored(check):
    text = the(check([0, 255]), 'error')
    assert "'ground' is the only class" in text and '255 is never learned' in text and "'person'" in text
    assert 'model.decode_head.ignore_index=255' in text
    # rare objects may be in none of the sample
    assert "'ground' is the only class" in the(check([0]), 'warning')
    assert the(check([0, 255], classes=('ground',)), 'note')


def test_more_is_read_where_the_first_are_of_one_class(check, tmp_path):
    check([0, 255], count=40)
    Image.fromarray(np.ones((8, 9), np.uint8)).save(tmp_path / 'ann' / '1.png')
    found = check([0, 255], count=0)
    assert '40 of 40 label images' in the(found, 'note')


def test_validation_is_measured_by_what_its_metric_ignores(check):
    assert the(check([0, 1, 255], part='val'), 'note')
    assert 'val_evaluator.0.ignore_index=11' in the(check([0, 1, 12], part='val', ignore=11), 'error')


def test_colours(check):
    red = Image.new('RGB', (9, 8), (255, 0, 0))
    text = the(check([0, 1], image=red), 'error')
    assert '3 channels' in text and '(255, 0, 0)' in text and 'seg_map_path' in text
    grey = check([0, 1], image=Image.new('LA', (9, 8), (1, 255)))
    assert 'has colours (2 channels)' in the(grey, 'error')
    assert 'The channels are equal' in the(check([0, 1], image=Image.new('RGB', (9, 8), (1, 1, 1))), 'error')


def test_palettes_are_read_as_numbers_by_pillow_alone(check):
    palette = Image.fromarray(np.resize(np.array([0, 1], np.uint8), (8, 9)), mode='P')
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert the(check([0, 1], image=palette), 'note')
    steps = [STEPS[0], dict(type='LoadAnnotations', imdecode_backend='cv2')]
    assert 'It has a palette' in the(check([0, 1], image=palette, pipeline=steps), 'error')


def test_more_than_eight_bits(check):
    deep = Image.fromarray(np.resize(np.array([0, 257], np.uint16), (8, 9)))
    assert 'from 0 to 257' in the(check([0, 1], image=deep), 'error')


@pytest.mark.parametrize('content', [b'', b'no image', 'half'])
def test_damaged_label_images(check, tmp_path, content):
    check([0, 1])
    path = tmp_path / 'ann' / '1.png'
    damaged = path.read_bytes()[:45] if content == 'half' else content

    class Damaged:
        def save(self, place):
            place.write_bytes(damaged)

    text = the(check([0, 1], image=Damaged()), 'error')
    assert 'train_dataloader.dataset.data_prefix.seg_map_path' in text and str(tmp_path / 'ann' / '0.png') in text
    assert ('it is empty' if not damaged else 'damaged or not an image') in text


def test_an_image_that_cannot_be_read(check, tmp_path):
    check([0, 1])
    suffix = dict(img_suffix='.jpg', seg_map_suffix='.png')
    for i in range(3):
        (tmp_path / 'img' / f'{i}.jpg').write_bytes(b'no image')
    text = the(check([0, 1], **suffix), 'error')
    assert 'train_dataloader.dataset.data_prefix.img_path' in text and f'{tmp_path}/img/0.jpg cannot be read' in text


def test_label_images_of_another_size(check, tmp_path):
    text = the(check([0, 1], image=Image.new('L', (9, 4))), 'error')
    assert 'this label image is 9x4 pixels, its image 9x8; save it in the size of its image' in text


def test_all_are_read_on_demand(check, tmp_path):
    """A sample passes over rare faults; with ``every`` each is named."""
    check([0, 1], count=60)
    labels = tmp_path / 'ann'
    for i in (7, 41):
        (labels / f'{i}.png').write_bytes(b'')
    assert '16 of 60' in the(check([0, 1], count=0), 'note')
    errors = check([0, 1], count=0, every=True)['error']
    assert [f'ann/{i}.png' in error for i, error in zip((7, 41), sorted(errors, key=len))] == [True, True]
    for i in (7, 41):
        Image.fromarray(np.full((8, 9), 9, np.uint8)).save(labels / f'{i}.png')
    assert '16 of 60' in the(check([0, 1], count=0), 'note')
    text = the(check([0, 1], count=0, every=True), 'error')
    assert '60 of 60' in text and 'the first with 9: ' in text
    # not a line for each of thousands
    for i in range(40):
        (labels / f'{i}.png').write_bytes(b'')
    assert len(check([0, 1], count=0, every=True)['error']) == 20


def test_files_that_are_not_there(check, tmp_path):
    check([0, 1])
    text = the(check([0, 1], count=0, img_suffix='.jpg'), 'error')
    assert 'img_suffix' in text and "3 in '.png'" in text
    (tmp_path / 'ann' / '1.png').unlink()
    assert '1 of 3 images have no label image' in the(check([0, 1], count=0), 'error')


def test_real_label_images_pass(data_root):
    dataset = dict(
        type='ADE20KDataset', data_root=str(data_root / 'ade20k_slice'), pipeline=STEPS,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
    )  # fmt: skip
    found = list(check_config(dict(default_scope='mmseg', train_dataloader=dict(dataset=dataset))))
    assert [one.level for one in found] == ['note'] and 'after reduce_zero_label' in found[0].text
