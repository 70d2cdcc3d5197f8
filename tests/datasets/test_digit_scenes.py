import json
import sys

import cv2
import numpy as np
import pytest

from mmsnn.datasets import digit_scenes
from mmsnn.datasets.digit_scenes import BACKGROUND, CLASSES, SPLITS, make_digit_scenes

pytest.importorskip('sklearn', reason='the scanned digits come with scikit-learn, extra `demo`')
COCO = pytest.importorskip('pycocotools.coco', reason='pycocotools, which mmdet needs, reads the annotations').COCO

SMALL = dict(num_train=12, num_val=6, size=96, seed=3)


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    return make_digit_scenes(tmp_path_factory.mktemp('data') / 'digits', **SMALL)


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob('*') if p.is_file()}


def test_same_seed_same_bytes(small, tmp_path):
    assert contents(make_digit_scenes(tmp_path / 'again', **SMALL)) == contents(small)
    other = contents(make_digit_scenes(tmp_path / 'other', **{**SMALL, 'seed': 4}))
    assert not any(other[name] == content for name, content in contents(small).items() if name.endswith('.jpg'))


def test_larger_set_begins_with_the_smaller(small, tmp_path):
    larger = contents(make_digit_scenes(tmp_path / 'larger', **{**SMALL, 'num_train': 14}))
    assert all(larger[n] == c for n, c in contents(small).items() if n.endswith(('.jpg', '.png')))


@pytest.mark.parametrize('split', SPLITS)
def test_boxes_masks_and_semantic_maps_agree(small, split):
    coco = COCO(str(small / f'annotations/{split}.json'))
    assert len(coco.imgs) == SMALL[f'num_{split}']
    assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    for image in coco.loadImgs(coco.getImgIds()):
        picture = cv2.imread(str(small / f'images/{split}' / image['file_name']))
        assert picture.shape == (image['height'], image['width'], 3) == (96, 96, 3)
        semantic = cv2.imread(
            str(small / f'semantic/{split}' / image['file_name'].replace('.jpg', '.png')), cv2.IMREAD_UNCHANGED
        )
        redrawn = np.full_like(semantic, BACKGROUND)
        found = coco.loadAnns(coco.getAnnIds(image['id']))
        assert 1 <= len(found) <= 6
        for annotation in found:
            mask = coco.annToMask(annotation).astype(bool)
            assert not (redrawn[mask] != BACKGROUND).any(), 'masks overlap'
            redrawn[mask] = annotation['category_id'] - 1
            rows, columns = np.nonzero(mask)
            x, y, w, h = annotation['bbox']
            assert (x, y) == (columns.min(), rows.min())
            assert (x + w, y + h) == (columns.max() + 1, rows.max() + 1)
            assert annotation['area'] == mask.sum()
        np.testing.assert_array_equal(redrawn, semantic)


def test_no_scan_serves_in_both_splits(small):
    samples = [
        {a['sample'] for a in json.loads((small / f'annotations/{split}.json').read_text())['annotations']}
        for split in SPLITS
    ]
    assert all(samples) and not samples[0] & samples[1]


def test_second_call_writes_nothing(small, monkeypatch):
    monkeypatch.setattr(digit_scenes, '_write_split', lambda *_: pytest.fail('written again'))
    assert make_digit_scenes(small, **SMALL) == small


@pytest.mark.parametrize('damage', ['missing', 'changed', 'added', 'stamp'])
def test_damaged_set_is_written_again(small, tmp_path, damage):
    root = make_digit_scenes(tmp_path / 'digits', **SMALL)
    victim = root / ('stamp.json' if damage == 'stamp' else 'images/train/000003.jpg')
    if damage == 'missing':
        victim.unlink()
    elif damage == 'added':
        victim.with_name('stray.jpg').write_bytes(b'')
    else:
        victim.write_bytes(b'')
    make_digit_scenes(root, **SMALL)
    assert contents(root) == contents(small)


def test_other_parameters_replace_the_set(tmp_path):
    root = make_digit_scenes(tmp_path / 'digits', **SMALL)
    make_digit_scenes(root, **{**SMALL, 'num_val': 2})
    assert len(list((root / 'images/val').iterdir())) == 2
    assert [p.name for p in tmp_path.iterdir()] == ['digits']


def test_interrupted_call_leaves_the_old_set(small, tmp_path, monkeypatch):
    root = make_digit_scenes(tmp_path / 'digits', **SMALL)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(digit_scenes, '_write_split', interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_digit_scenes(root, **{**SMALL, 'seed': 9})
    assert contents(root) == contents(small)
    assert [p.name for p in tmp_path.iterdir()] == ['digits']


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / 'thesis.txt').write_text('years of work')
    with pytest.raises(FileExistsError, match='remove it'):
        make_digit_scenes(tmp_path, **SMALL)
    assert (tmp_path / 'thesis.txt').exists()


@pytest.mark.parametrize('wrong', [dict(num_val=0), dict(num_train=0), dict(size=32)])
def test_bad_parameters_are_named(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make_digit_scenes(tmp_path / 'digits', **{**SMALL, **wrong})


def test_without_scikit_learn_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(ImportError, match=r'mmsnn\[demo\]'):
        make_digit_scenes(tmp_path / 'digits', **SMALL)
