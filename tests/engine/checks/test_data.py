import json

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS

import mmsnn  # noqa: F401  before mmdet: it supplies mmcv's compiled ops where they are missing
from mmsnn.engine.checks import UNCHECKED, check_config, check_data, check_files

CONTENT = dict(
    images=[dict(id=1, file_name='a.png', width=8, height=8)],
    annotations=[],
    categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
)


@pytest.fixture
def root(tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'train.json').write_text(json.dumps(CONTENT))
    return tmp_path


def dataset(root, **changes):
    plain = dict(type='CocoDataset', data_root=str(root), ann_file='train.json', data_prefix=dict(img='images/'))
    return {**plain, 'metainfo': dict(classes=('cat', 'dog')), **changes}


def config(data, part='train', scope='mmdet'):
    return {'default_scope': scope, f'{part}_dataloader': dict(dataset=data)}


def test_good_input_passes(root):
    check_data(config(dataset(root)))
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
    good, bad = dataset(root), dataset(root / 'gone')
    repeated = dict(type='RepeatDataset', times=2, dataset=bad)
    joined = dict(type='ConcatDataset', datasets=[good, repeated])
    with pytest.raises(FileNotFoundError, match=r'^train_dataloader\.dataset\.datasets\.1\.dataset\.data_root:'):
        check_data(config(joined))


def test_absolute_paths_need_no_data_root(root):
    good = dataset(root)
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


def test_a_missing_root_is_said_once(root):
    found = [str(one) for one in check_config(config(dataset(root / 'gone'))) if one.level == 'error']
    assert len(found) == 1 and 'data_root' in found[0]


def test_all_errors_are_named_at_once(root):
    cfg = config(dataset(root, ann_file='gone.json')) | config(dataset(root, metainfo=dict(classes=('dgo',))), 'val')
    with pytest.raises(FileNotFoundError) as error:
        check_data(cfg)
    first, *others = str(error.value).splitlines()
    assert first.startswith('train_dataloader.dataset.ann_file: ')
    assert any(line.startswith('val_dataloader.dataset.metainfo.classes: ') for line in others)


@pytest.mark.parametrize(
    ('metainfo', 'message'),
    [
        (dict(classes='cat'), r"metainfo\.classes: 'cat' is a string.*\('cat',\)"),
        (dict(classes=('cat', 'cat')), r"metainfo\.classes: 'cat' is listed more than once"),
    ],
)
def test_classes_in_another_form(root, metainfo, message):
    with pytest.raises(ValueError, match=message):
        check_data(config(dataset(root, metainfo=metainfo)))


def test_a_file_of_classes(root):
    (root / 'classes.txt').write_text('cat\ndog\n')
    check_data(config(dataset(root, metainfo=dict(classes=str(root / 'classes.txt')))))


def test_keys_of_metainfo_that_nothing_reads(root):
    found = check_config(config(dataset(root, type='XMLDataset', metainfo=dict(CLASSES=('cat',)))))
    assert any(one.level == 'warning' and 'metainfo.CLASSES' in one.key for one in found)


def test_validation_numbers_classes_as_training_does(root):
    swapped = json.dumps({**CONTENT, 'categories': CONTENT['categories'][::-1]})
    (root / 'val.json').write_text(swapped)
    other = dataset(root, ann_file='val.json', metainfo=dict(classes=('dog', 'cat')))
    with pytest.raises(ValueError, match=r"^val_.*metainfo\.classes: .*Label 0 is 'cat' in training and 'dog' here"):
        check_data(config(dataset(root)) | config(other, 'val'))


def test_what_is_not_known_is_said_to_be_unchecked(root):
    found = list(check_config(config(dict(type='XMLDataset', data_root=str(root), metainfo=dict(classes=('cat',))))))
    assert [one.level for one in found] == ['unchecked'] and 'XMLDataset' in found[0].text


def test_a_check_that_stumbles_stops_nothing(root):
    found = check_data(config(dataset(root, filter_cfg=['no mapping'])))
    assert any(one.level == 'unchecked' and 'failed' in one.text for one in found)


def test_types_may_be_classes(root):
    from mmdet.datasets import CocoDataset

    with pytest.raises(ValueError, match="'dgo'"):
        check_data(config(dataset(root, type=CocoDataset, metainfo=dict(classes=('dgo',))), scope=None))


def test_one_process_of_a_machine_reads_the_files(root, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '1')
    check_data(config(dataset(root, metainfo=dict(classes=('dgo',)))))
    with pytest.raises(FileNotFoundError):
        check_data(config(dataset(root, ann_file='gone.json')))


def test_files_of_a_dataset_that_does_not_tell_its_samples():
    """It is said that they were not read, and that they are good is not."""

    @DATASETS.register_module(force=True)
    class Numbers:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return index

    found = list(check_files(Config(dict(train_dataloader=dict(dataset=dict(type='Numbers')))), []))
    assert [one.level for one in found] == [UNCHECKED] and 'Numbers' in found[0].text
