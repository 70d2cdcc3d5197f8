import json

import pytest
from PIL import Image

import mmsnn  # noqa: F401  before mmdet: it supplies mmcv's compiled ops where they are missing
from mmsnn.engine.checks import Reader, check_coco, check_config, check_data

CLASSES = ('RBC', 'WBC', 'Platelets')


@pytest.fixture
def content():
    """Two images with a box of each class."""
    return dict(
        images=[dict(id=i, file_name=f'{i}.png', width=96, height=64) for i in range(2)],
        categories=[dict(id=10 * (i + 1), name=name) for i, name in enumerate(CLASSES)],
        annotations=[
            dict(id=3 * i + c + 1, image_id=i, category_id=10 * (c + 1), bbox=[5, 4, 30, 20], area=600, iscrowd=0)
            for i in range(2)
            for c in range(3)
        ],
    )


@pytest.fixture
def check(tmp_path):
    """Findings about a content, by level."""

    def run(content, **reader):
        path = tmp_path / 'ann.json'
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        settings = dict(key='val_dataloader.dataset.ann_file', owner='val_dataloader.dataset', classes=CLASSES)
        found = list(check_coco(str(path), Reader(**{**settings, **reader})))
        return {level: [str(one) for one in found if one.level == level] for level in ('error', 'warning', 'note')}

    return run


def the(found, level):
    """The only finding, which is of that level."""
    assert [key for key, value in found.items() if value] == [level], found
    assert len(found[level]) == 1, found
    return found[level][0]


def test_good_files_pass_with_a_summary(content, check):
    assert '2 of 2 images, 6 of 6 boxes' in the(check(content), 'note')
    assert '3 of 6 boxes' not in the(check(content, classes=None), 'note')
    text = the(check(content, classes=('WBC',), filter_empty=True), 'note')
    assert '2 of 6 boxes' in text and '4 of another category' in text


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'<annotation/>', 'is no JSON'),
        (b'\xff\xfe\x00', 'is no JSON'),
        (b'[' * 100_000, 'is no JSON'),
        (b'[]', 'holds a JSON list'),
        (json.dumps(dict(images=[], annotations=[])).encode(), 'has no list categories'),
        (json.dumps(dict(images=[1], annotations={}, categories=[])).encode(), 'has no list annotations'),
        (json.dumps(dict(info={})).encode(), 'has no list images and no list annotations and no list categories'),
        (json.dumps(dict(images=[], annotations=[], categories=[])).encode(), 'lists no images'),
    ],
)
def test_what_is_not_coco_is_refused(check, content, message):
    text = the(check(content), 'error')
    assert message in text and 'ann.json' in text and text.startswith('val_dataloader.dataset.ann_file: ')


def test_test_sets_may_lack_annotations(content, check):
    del content['annotations']
    assert not any(check(content, annotated=False).values())
    assert 'no list annotations' in the(check(content), 'error')


@pytest.mark.parametrize(
    ('classes', 'message', 'right'),
    [
        # mmdet calls boxes of RBC by the first name
        (('WBC', 'RBC', 'Platelets'), "boxes of 'RBC' would be called 'WBC'", CLASSES),
        (('Platelets', 'RBC'), "boxes of 'RBC' would be called 'Platelets'", ('RBC', 'Platelets')),
        (('RBC', 'wbc', 'Platelets'), "'wbc' is no category", CLASSES),
        (('RBC', 'WBC', 'Platelet'), "did you mean 'Platelets'?", CLASSES),
        (('tower',), "'tower' is no category", CLASSES),
        (('RBC', 'WBC', 'Platelets', 'tower'), "'tower' is no category", CLASSES),
    ],
)
def test_names_of_classes(content, check, classes, message, right):
    text = check(content, classes=classes)['error'][0]
    assert text.startswith('val_dataloader.dataset.metainfo.classes: ')
    assert message in text and f'metainfo=dict(classes={right!r})' in text
    assert (f'num_classes={len(right)}' in text) == (len(right) != len(classes))


def test_any_subset_in_the_order_of_the_file_passes(content, check):
    for classes in (('RBC',), ('WBC',), ('RBC', 'Platelets'), ('WBC', 'Platelets')):
        assert not check(content, classes=classes)['error']


def test_classes_left_over_from_the_type(content, check):
    text = check(content, classes=tuple(map(str, range(80))), default='CocoDataset')['error'][0]
    assert 'the 80 of CocoDataset' in text and repr(CLASSES) in text and 'num_classes=3' in text


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(id=10), 'several categories have the id 10'),
        (dict(name='RBC'), "several categories have the name 'RBC'"),
    ],
)
def test_double_categories(content, check, change, message):
    content['categories'][1].update(change)
    assert message in check(content)['error'][0]
    del content['categories'][1]['name']
    assert 'categories[1]' in check(content)['error'][0]


def test_crowds_are_not_learned(content, check):
    """mmdet keeps these boxes as regions to ignore."""
    content['annotations'][0]['iscrowd'] = 1
    assert '5 of 6 boxes; boxes dropped: 1 marked iscrowd' in the(check(content), 'note')
    for annotation in content['annotations']:
        annotation['iscrowd'] = 1
    text = the(check(content), 'error')
    assert 'none of the 6 boxes would be read: 6 marked iscrowd' in text and 'write iscrowd = 0' in text


def every(key, value=None):
    """A change of every annotation."""

    def change(content):
        for annotation in content['annotations']:
            annotation.pop(key) if value is None else annotation.update({key: value(annotation)})

    return change


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (every('area'), '6 of 6 annotations (the first: annotations[0] with id 1) are without area'),
        (every('area', lambda a: '600'), 'whose area is no number'),
        (every('bbox'), 'without bbox'),
        (every('bbox', lambda a: [1, 2, 3]), 'whose bbox is not four numbers'),
        (every('bbox', lambda a: list(map(str, a['bbox']))), 'whose bbox is not four numbers'),
        (every('bbox', lambda a: [float('nan')] * 4), 'whose bbox is not four numbers'),
        (every('category_id'), 'without category_id'),
        (every('image_id'), 'without image_id'),
        (every('id'), 'without id'),
        (every('id', lambda a: 7), 'have the id of another one'),
        (every('iscrowd'), 'without iscrowd'),
        (lambda content: content['annotations'].append('text'), 'no JSON object'),
    ],
)
def test_what_mmdet_or_its_metric_stumble_over(content, check, change, message):
    change(content)
    found = check(content, evaluated=True)['error']
    assert any(message in text and 'ann.json' in text for text in found), found


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (every('area', lambda a: 0), 'none of the 6 boxes would be read: 6 of an area of 0 or less; write area'),
        (every('bbox', lambda a: [200, 4, 30, 20]), '6 outside of the image'),
        (every('bbox', lambda a: [0.1, 0.1, 0.3, 0.3]), 'these look like fractions of the size'),
        (every('image_id', lambda a: 99), '6 of an image that is not listed'),
        (every('image_id', lambda a: str(a['image_id'])), "image_id='0' is of another type than the id in images"),
        (every('category_id', lambda a: str(a['category_id'])), "category_id='10' is of another type"),
        (every('ignore', lambda a: 1), '6 marked ignore'),
    ],
)
def test_nothing_left_of_all_boxes(content, check, change, message):
    change(content)
    assert message in the(check(content), 'error')


def test_dropped_boxes_are_counted(content, check):
    content['annotations'][0]['area'] = 0
    content['annotations'][1]['bbox'] = [200, 4, 30, 20]
    content['annotations'][2]['image_id'] = 99
    text = the(check(content), 'warning')
    assert '2 of 2 images, 3 of 6 boxes' in text
    assert '1 outside of the image; 1 of an area of 0 or less; 1 of an image that is not listed' in text
    assert '1 image without any of their boxes left' in text


def test_corners_instead_of_sizes(content, check):
    every('bbox', lambda a: [40, 30, 90, 60])(content)
    assert 'corners instead of sizes' in the(check(content), 'warning')


def test_images_are_filtered_as_mmdet_does(content, check):
    content['annotations'] = content['annotations'][:3]
    assert '1 of 2 images' in the(check(content, filter_empty=True), 'note')
    assert '2 of 2 images' in the(check(content), 'note')
    assert 'below 100 pixels' in the(check(content, min_size=100), 'error')
    content['annotations'] = []
    assert 'no annotations' in the(check(content, filter_empty=True), 'error')
    assert not check(content)['error']


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(width='96'), 'of the wrong type'),
        (dict(width=0), 'not positive'),
        (dict(id=1), '1 is the id of several images'),
        (dict(file_name=None), 'of the wrong type'),
    ],
)
def test_entries_of_images(content, check, change, message):
    content['images'][0].update(change)
    assert message in the(check(content), 'error')


def test_masks(content, check):
    assert 'without segmentation' in the(check(content, masks=True), 'error')
    every('segmentation', lambda a: [1, 2, 3, 4, 5, 6])(content)
    assert 'no list of polygons' in the(check(content, masks=True), 'error')
    every('segmentation', lambda a: [[1, 2, 3, 4, 5, 6]])(content)
    assert not check(content, masks=True)['error']


def test_polygons_of_large_files_are_not_read(content, check, monkeypatch):
    monkeypatch.setattr('mmsnn.engine.checks.coco.LARGE', 1)
    every('segmentation', lambda a: [[1.5, 2, 3e1, -4, 5, 6], [1, 2, 3, 4, 5, 6]])(content)
    assert '6 of 6 boxes' in the(check(content, masks=True), 'note')
    content['annotations'][0]['area'] = 0
    assert check(content)['warning']


def test_missing_images(content, check, tmp_path):
    Image.new('L', (96, 64)).save(tmp_path / '0.png')
    found = check(content, folder=str(tmp_path))
    assert '1 of the 2 images' in found['error'][0] and 'data_prefix.img' in found['error'][0]
    content['annotations'] = content['annotations'][:3]
    # what is filtered is never opened
    assert not check(content, folder=str(tmp_path), filter_empty=True)['error']
    Image.new('L', (64, 96)).save(tmp_path / '0.png')
    found = check(content, folder=str(tmp_path), filter_empty=True)
    assert '1 of 1 images that were looked at (0.png is 64x96 and not 96x64)' in found['warning'][0]
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new('L', (64, 96)).save(tmp_path / '0.png', exif=turned)
    assert not check(content, folder=str(tmp_path), filter_empty=True)['warning']
    (tmp_path / '0.png').write_bytes(b'no image')
    assert '0.png is not an image' in check(content, folder=str(tmp_path), filter_empty=True)['error'][0]


def test_config_of_a_detector(content, tmp_path):
    """What the config says reaches the reader; the metric reads the dataset's file."""
    every('iscrowd')(content)
    (tmp_path / 'a.json').write_text(json.dumps(content))
    dataset = dict(type='CocoDataset', data_root=str(tmp_path), ann_file='a.json', metainfo=dict(classes=CLASSES))
    with pytest.raises(ValueError, match=r"data_prefix: .*dict\(img='FOLDER/'\)"):
        check_data(dict(default_scope='mmdet', val_dataloader=dict(dataset=dataset)))
    dataset['data_prefix'] = dict(img='')
    cfg = dict(default_scope='mmdet', val_dataloader=dict(dataset=dataset))
    check_data(cfg)
    cfg['val_evaluator'] = dict(type='CocoMetric', ann_file=str(tmp_path / 'a.json'))
    with pytest.raises(ValueError, match='without iscrowd'):
        check_data(cfg)
    every('iscrowd', lambda a: 0)(content)
    (tmp_path / 'a.json').write_text(json.dumps(content))
    check_data(cfg)
    content['images'].pop()
    content['annotations'] = content['annotations'][:3]
    (tmp_path / 'b.json').write_text(json.dumps(content))
    cfg['val_evaluator'] = [dict(type='CocoMetric', ann_file=str(tmp_path / 'b.json'))]
    with pytest.raises(ValueError, match=r'val_evaluator\.0\.ann_file: .*b\.json lacks 1 of the 2 images'):
        check_data(cfg)


@pytest.mark.parametrize('indices, left', [(1, 1), ([0], 1), (-1, 1), (2, 0), ([0, 1], 0), (None, 0)])
def test_metric_evaluates_images_that_are_left_out(content, tmp_path, indices, left):
    """Their objects count as missed: a figure on some images of a file is too low, and nothing says so."""
    (tmp_path / 'a.json').write_text(json.dumps(content))
    dataset = dict(type='CocoDataset', data_root=str(tmp_path), ann_file='a.json', metainfo=dict(classes=CLASSES))
    dataset.update(data_prefix=dict(img=''), **({} if indices is None else dict(indices=indices)))
    metric = dict(type='CocoMetric', ann_file=str(tmp_path / 'a.json'))
    cfg = dict(default_scope='mmdet', val_dataloader=dict(dataset=dataset), val_evaluator=metric)

    def warnings():
        found = [one for one in check_config(cfg) if one.level == 'warning' and 'too low' in one.text]
        return [one.key for one in found]

    assert warnings() == ['val_dataloader.dataset.indices'] * left
    metric['format_only'] = True
    assert not warnings()


def test_metric_evaluates_more_images_than_there_are(content, tmp_path):
    (tmp_path / 'all.json').write_text(json.dumps(content))
    content['images'].pop()
    kept = {image['id'] for image in content['images']}
    content['annotations'] = [one for one in content['annotations'] if one['image_id'] in kept]
    (tmp_path / 'some.json').write_text(json.dumps(content))
    dataset = dict(type='CocoDataset', data_root=str(tmp_path), ann_file='some.json', metainfo=dict(classes=CLASSES))
    dataset['data_prefix'] = dict(img='')
    metric = dict(type='CocoMetric', ann_file=str(tmp_path / 'all.json'))
    cfg = dict(default_scope='mmdet', val_dataloader=dict(dataset=dataset), val_evaluator=metric)
    (found,) = [one for one in check_config(cfg) if one.level == 'warning' and 'too low' in one.text]
    assert found.key == 'val_evaluator.ann_file' and '1 images' in found.text


def test_real_files_pass(data_root):
    from mmdet.datasets import CocoDataset

    slice_, names = data_root / 'coco_slice', CocoDataset.METAINFO['classes']
    for part in ('train', 'val'):
        dataset = dict(
            type='CocoDataset', data_root=str(slice_), ann_file=f'annotations/instances_{part}2017.json',
            data_prefix=dict(img=f'{part}2017/'), filter_cfg=dict(filter_empty_gt=True, min_size=32),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_mask=True)],
        )  # fmt: skip
        cfg = {'default_scope': 'mmdet', f'{part}_dataloader': dict(dataset=dataset)}
        assert [one.level for one in check_config(cfg)] == ['note']
        dataset['metainfo'] = dict(classes=(names[1], names[0], *names[2:]))
        with pytest.raises(ValueError, match="'person' would be called 'bicycle'"):
            check_data(cfg)
