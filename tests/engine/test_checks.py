import json

import pytest

import mmsnn  # noqa: F401  before mmdet: it supplies mmcv's compiled ops where they are missing
from mmsnn.engine.checks import check_coco, check_data

CONTENT = dict(images=[dict(id=1)], annotations=[], categories=[dict(id=1, name='cat'), dict(id=2, name='dog')])


@pytest.fixture
def root(tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'train.json').write_text(json.dumps(CONTENT))
    return tmp_path


def dataset(root, **changes):
    return dict(
        type='CocoDataset', data_root=str(root), ann_file='train.json', data_prefix=dict(img='images/'), **changes
    )


def config(data, part='train', scope='mmdet'):
    return {'default_scope': scope, f'{part}_dataloader': dict(dataset=data)}


def test_good_input_passes(root):
    check_data(config(dataset(root, metainfo=dict(classes=('dog',)))))
    check_data({})
    check_data(dict(train_dataloader=None, val_dataloader=object(), test_evaluator=None))


@pytest.mark.parametrize(
    ('wrong', 'key', 'option'),
    [
        (dict(data_root='gone'), 'data_root', 'FOLDER'),
        (dict(ann_file='gone.json'), 'ann_file', 'FILE'),
        (dict(data_prefix=dict(img='gone/')), 'data_prefix.img', 'FOLDER'),
        (dict(data_prefix='gone/'), 'data_prefix', 'FOLDER'),
    ],
)
@pytest.mark.parametrize('part', ['train', 'val', 'test'])
def test_missing_input_is_named_with_its_key(root, wrong, key, option, part):
    with pytest.raises(FileNotFoundError) as error:
        check_data(config({**dataset(root), **wrong}, part))
    assert str(error.value).startswith(f'{part}_dataloader.dataset.{key}: there is no')
    assert 'gone' in str(error.value)
    assert f'--cfg-options {part}_dataloader.dataset.{key}={option}' in str(error.value)


def test_only_the_parts_asked_for(root):
    check_data(config(dataset(root / 'gone'), 'test'), ('train', 'val'))


def test_wrappers_are_seen_through(root):
    good, bad = dataset(root, metainfo=dict(classes=('cat',))), dataset(root / 'gone')
    repeated = dict(type='RepeatDataset', times=2, dataset=bad)
    joined = dict(type='ConcatDataset', datasets=[good, repeated])
    with pytest.raises(FileNotFoundError, match=r'^train_dataloader\.dataset\.datasets\.1\.dataset\.data_root:'):
        check_data(config(joined))


def test_absolute_paths_need_no_data_root(root):
    good = dataset(root, metainfo=dict(classes=('cat',)))
    good |= dict(data_root='gone', ann_file=str(root / 'train.json'), data_prefix=dict(img=str(root / 'images')))
    check_data(config(good))


def test_what_comes_from_elsewhere_is_left_alone(root):
    check_data(config(dict(type='CIFAR10', data_root='gone'), scope='mmpretrain'))
    check_data(config(dataset('s3://bucket/coco/')))
    check_data(config(dataset('gone', backend_args=dict(backend='petrel'))))
    with pytest.raises(FileNotFoundError, match='data_root'):
        check_data(config(dict(type='CIFAR10', data_root='gone', download=False), scope='mmpretrain'))


def test_unknown_dataset_types_are_left_to_the_registry(root):
    check_data(config(dict(type='NoSuchDataset', data_root=str(root))))


@pytest.mark.parametrize('several', [False, True])
def test_annotations_of_an_evaluator(root, several):
    metric = dict(type='CocoMetric', ann_file='gone.json')
    key = 'val_evaluator.0.ann_file' if several else 'val_evaluator.ann_file'
    with pytest.raises(FileNotFoundError, match=rf'^{key}: there is no file'):
        check_data(dict(val_evaluator=[metric] if several else metric))
    check_data(dict(val_evaluator=dict(type='IoUMetric')))


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'<annotation/>', 'is no JSON'),
        (b'\xff\xfe\x00', 'is no JSON'),
        (b'[' * 100_000, 'is no JSON'),
        (b'[]', 'holds a JSON list'),
        (json.dumps(dict(images=[], annotations=[])).encode(), 'has no list categories'),
        (json.dumps({**CONTENT, 'annotations': {}}).encode(), 'has no list annotations'),
        (json.dumps(dict(info={})).encode(), 'has no list images and no list annotations and no list categories'),
        (json.dumps({**CONTENT, 'images': []}).encode(), 'lists no images'),
    ],
)
def test_what_is_not_coco_is_refused(root, content, message):
    (root / 'train.json').write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        check_data(config(dataset(root)))
    assert str(error.value).startswith('train_dataloader.dataset.ann_file: ')
    assert str(root / 'train.json') in str(error.value)


def test_classes_must_be_among_the_categories(root):
    # without metainfo, the classes are COCO's, which know cats
    check_data(config(dataset(root)))
    with pytest.raises(ValueError, match=r'\(cat, dog\).*train_dataloader\.dataset\.metainfo\.classes'):
        check_data(config(dataset(root, metainfo=dict(classes=('cell', 'platelet')))))


def test_test_sets_may_lack_annotations(root):
    del (content := dict(CONTENT))['annotations']
    (root / 'train.json').write_text(json.dumps(content))
    check_data(config(dataset(root), 'test'))
    check_coco(str(root / 'train.json'), 'key', annotated=False)
    with pytest.raises(ValueError, match='no list annotations'):
        check_data(config(dataset(root), 'val'))
