from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import Runner

# listed in another order than their ids have
WNIDS = ('n02124075', 'n01443537', 'n04067472')
WORDS = {'n01443537': 'goldfish, Carassius auratus', 'n02124075': 'Egyptian cat', 'n04067472': 'reel', 'n09999999': 'x'}
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]


@pytest.fixture
def root(tmp_path):
    """Three training images a class, four validation images; blue tells the class (by id), green the number."""
    root = tmp_path / 'tiny-imagenet-200'
    for k, wnid in enumerate(sorted(WNIDS)):
        (root / 'train' / wnid / 'images').mkdir(parents=True)
        lines = []
        for i in (0, 1, 10):
            write(root / 'train' / wnid / 'images' / f'{wnid}_{i}.JPEG', k, i)
            lines.append(f'{wnid}_{i}.JPEG\t0\t10\t63\t58\n')
        (root / 'train' / wnid / f'{wnid}_boxes.txt').write_text(''.join(lines))
    (root / 'val' / 'images').mkdir(parents=True)
    lines = []
    for i, wnid in enumerate((*WNIDS, WNIDS[0])):
        write(root / 'val' / 'images' / f'val_{i}.JPEG', sorted(WNIDS).index(wnid), i)
        lines.append(f'val_{i}.JPEG\t{wnid}\t0\t32\t44\t62\n')
    (root / 'val' / 'val_annotations.txt').write_text(''.join(lines))
    (root / 'wnids.txt').write_text('\n'.join(WNIDS) + '\n')
    (root / 'words.txt').write_text(''.join(f'{wnid}\t{words}\n' for wnid, words in WORDS.items()))
    return root


def write(path, blue, green):
    cv2.imwrite(str(path), np.full((64, 64, 3), (80 * blue, 20 * green, 0), np.uint8))


def build(root, **kwargs):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return DATASETS.build(dict(type='mmsnn.TinyImageNet', data_root=str(root), pipeline=PIPELINE, **kwargs))


@pytest.mark.parametrize('split,count', [('train', 9), ('val', 4)])
def test_images_and_labels_belong_together(root, split, count):
    data = build(root, split=split)
    assert len(data) == count and data.CLASSES == ('goldfish', 'Egyptian cat', 'reel')
    for i in range(count):
        item = data[i]
        assert item['inputs'].shape == (3, 64, 64)
        assert abs(item['inputs'][0].float().mean() - 80 * item['data_samples'].gt_label) < 4


@pytest.mark.parametrize('part', ['train', 'val', 'test'])
def test_config_loads_what_its_network_takes(root, part):
    cfg = Config.fromfile(Path(__file__).parents[2] / 'configs/spiking/spiking_r18_tiny_imagenet.py')
    loader = dict(cfg[f'{part}_dataloader'], num_workers=0, batch_size=2)
    loader['dataset']['data_root'] = str(root)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        batch = next(iter(Runner.build_dataloader(loader, seed=0)))
        inputs = MODELS.build({'type': 'ClsDataPreprocessor', **cfg.data_preprocessor})(batch)['inputs']
    assert inputs.shape == (2, 3, 64, 64) and cfg.model.head.num_classes == cfg.data_preprocessor.num_classes == 200


def test_order(root):
    assert build(root).get_gt_labels().tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert build(root, split='val').get_gt_labels().tolist() == [1, 0, 2, 1]


@pytest.mark.parametrize(
    'victim', ['wnids.txt', 'words.txt', 'val/val_annotations.txt', 'val/images/val_2.JPEG', 'val/images']
)
def test_missing_files_are_named(root, victim):
    (root / victim).rename(root / 'elsewhere')
    with pytest.raises(FileNotFoundError, match=f'data_root.*{victim}'):
        build(root, split='val')


@pytest.mark.parametrize('victim', ['n02124075_boxes.txt', 'images/n02124075_10.JPEG'])
def test_missing_training_files_are_named(root, victim):
    (root / 'train' / 'n02124075' / victim).unlink()
    with pytest.raises(FileNotFoundError, match=victim):
        build(root)
    assert len(build(root, split='val')) == 4


def test_damaged_lists_are_named(root):
    (root / 'val' / 'val_annotations.txt').write_text('val_0.JPEG\tn00000001\t0\t0\t1\t1\n')
    with pytest.raises(ValueError, match='n00000001'):
        build(root, split='val')
    (root / 'val' / 'val_annotations.txt').write_text('val_0.JPEG\n')
    with pytest.raises(ValueError, match='val_annotations.txt is damaged'):
        build(root, split='val')


def test_damaged_images_are_named(root):
    (root / 'val' / 'images' / 'val_1.JPEG').write_bytes(b'no image')
    with pytest.raises(Exception, match='val_1.JPEG'):
        build(root, split='val')[1]


def test_the_test_images_have_no_labels(root):
    with pytest.raises(ValueError, match='dataset.split must be train or val'):
        build(root, split='test')
