import json
from pathlib import Path

import pytest

import mmsnn  # noqa: F401  before mmpretrain: it supplies mmcv's compiled ops where they are missing
from mmsnn.engine.checks import check_config


@pytest.fixture
def root(tmp_path):
    for name in ('cat', 'dog', 'emu'):
        (tmp_path / 'train' / name).mkdir(parents=True)
        (tmp_path / 'train' / name / 'a.png').touch()
    return tmp_path


def check(root, part='train', classes=3, other=None, **changes):
    """Findings about folders or a list, without those of heads."""
    dataset = dict(type='CustomDataset', data_root=str(root), data_prefix='train')
    cfg = {'default_scope': 'mmpretrain', f'{part}_dataloader': dict(dataset={**dataset, **changes})}
    cfg['model'] = dict(type='ImageClassifier', head=dict(type='LinearClsHead', num_classes=classes))
    if other is not None:
        cfg['val_dataloader'] = dict(dataset={**dataset, **other})
    found = [one for one in check_config(cfg) if not one.key.startswith('model')]
    return {level: [str(one) for one in found if one.level == level] for level in ('error', 'warning', 'note')}


def the(found, level):
    """The only finding, which is of that level."""
    assert [key for key, value in found.items() if value] == [level] and len(found[level]) == 1, found
    return found[level][0]


def test_good_folders(root):
    assert '3 classes by folder' in the(check(root), 'note')
    assert the(check(root, metainfo=dict(classes=('cat', 'dog', 'emu'))), 'note')
    # other words for the same
    assert the(check(root, metainfo=dict(classes=('Felis', 'Canis', 'Dromaius'))), 'note')


@pytest.mark.parametrize(
    ('classes', 'message'),
    [
        (('dog', 'cat', 'emu'), "images of 'cat' in .* would be called 'dog'"),
        (('cat', 'dog'), '2 classes .* has 3 folders'),
    ],
)
def test_classes_against_folders(root, classes, message):
    import re

    text = check(root, metainfo=dict(classes=classes))['error'][0]
    assert text.startswith('train_dataloader.dataset.metainfo.classes: ') and re.search(message, text)


def test_own_folders_as_imagenet(root):
    text = check(root, type='ImageNet', split='train')['error'][0]
    assert '1000 classes' in text and 'those of ImageNet' in text and 'CustomDataset' in text and '3 folders' in text


def test_folders_of_validation_differ(root):
    for name in ('dog', 'emu'):
        (root / 'val' / name).mkdir(parents=True)
        (root / 'val' / name / 'a.png').touch()
    text = the({**check(root, other=dict(data_prefix='val')), 'note': []}, 'error')
    assert text.startswith('val_dataloader.dataset')
    assert "Label 0 is 'cat' in training and 'dog' here" in text and 'Put the same folders into' in text


def test_remedies_do_not_contradict(root):
    """Where classes or folders may be wrong, heads and other data sets are not told to follow either."""
    for name in ('cat', 'dog', 'emu'):
        (root / 'val' / name).mkdir(parents=True)
        (root / 'val' / name / 'a.png').touch()
    other = dict(data_prefix='val')
    text = the({**check(root, other=other, metainfo=dict(classes=('cat', 'dog'))), 'note': []}, 'error')
    assert "Write metainfo=dict(classes=('cat', 'dog', 'emu')) and num_classes=3" in text
    text = the({**check(root, other=other, metainfo=dict(classes=('Felis', 'Canis', 'Dromaius'))), 'note': []}, 'error')
    assert text.startswith('val_dataloader.dataset')
    assert text.endswith("Give it those of the training: metainfo=dict(classes=('Felis', 'Canis', 'Dromaius'))")
    # what is right in validation stays, where the training is told to write the same
    text = the({**check(root, other=other, metainfo=dict(classes=('dog', 'cat', 'emu'))), 'note': []}, 'error')
    assert text.startswith('train_dataloader') and "Write metainfo=dict(classes=('cat', 'dog', 'emu'))" in text


def test_folders_that_are_no_classes(root):
    (root / 'train' / '.checkpoints').mkdir()
    found = check(root)['warning']
    assert "'.checkpoints'" in found[0] and 'shifts the labels' in found[0]
    assert 'no file in' in found[1]
    text = the(check(root, data_prefix='train/cat'), 'error')
    assert 'contains no folders' in text
    assert '.extensions' in check(root, extensions=('.webp',))['error'][0]


def test_images_with_other_endings(root):
    """They are left out of the data set, which mmpretrain does without a word."""
    for name in ('a.WEBP', 'b.webp', 'c.bmp', 'notes.txt'):
        (root / 'train' / 'cat' / name).touch()
    extensions = '.JPG', '.png'
    said = [text for text in check(root, extensions=extensions)['warning'] if 'left out' in text]
    assert len(said) == 1 and said[0].startswith('train_dataloader.dataset.extensions: 3 of ')
    assert '(2 in .webp, 1 in .bmp)' in said[0] and "extensions=('.jpg', '.png', '.bmp', '.webp')" in said[0]
    assert not check(root, extensions=('.jpg', '.png', '.bmp', '.webp'))['warning']


def write(root, lines):
    (root / 'list.txt').write_text('\n'.join(lines))
    return dict(ann_file='list.txt')


def test_a_good_list(root):
    good = write(root, ['cat/a.png 0', 'dog/a.png 1', 'emu/a.png 2'])
    assert '3 images, labels 0 to 2' in the(check(root, **good), 'note')


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        (['cat/a.png 1', 'dog/a.png 2', 'emu/a.png 3'], 'labels from 1 to 3, but 3 classes are 0 to 2: count from 0'),
        (['cat/a.png 7'], 'labels from 7 to 7'),
        (['cat/a.png -1'], 'labels from -1'),
        (['cat/a.png 0', 'dog/a.png dog'], "the first is line 2, 'dog/a.png dog'"),
        (['cat/a.png'], 'line 1'),
        (['cat/a.png 0', 'cat/b.png 0'], '1 of the 2 images'),
    ],
)
def test_lists_that_do_not_fit(root, lines, message):
    text = the(check(root, **write(root, lines)), 'error')
    assert text.startswith('train_dataloader.dataset.ann_file: ') and message in text and 'list.txt' in text


def test_mmengines_own_format(root):
    rows = [dict(img_path='cat/a.png', gt_label=0), dict(img_path='dog/a.png', gt_label=5)]
    path = Path(root, 'own.json')
    path.write_text(json.dumps(dict(metainfo={}, data_list=rows)))
    found = check(root, type='mmpretrain.BaseDataset', ann_file='own.json')
    assert 'labels from 0 to 5' in the(found, 'error')
    rows[1]['gt_label'] = [1, 2]
    path.write_text(json.dumps(dict(metainfo={}, data_list=rows)))
    assert the(check(root, type='mmpretrain.BaseDataset', ann_file='own.json'), 'note')
