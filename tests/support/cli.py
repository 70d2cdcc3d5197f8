"""Small trainings from files through the command lines, for the tests of what goes wrong with files."""

import gc
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import tiny
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

ROOT = Path(__file__).parents[2]

COMMON = """
default_scope = {scope!r}
custom_imports = dict(imports=['mmsnn'])
model = {model!r}
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
train_cfg = dict(by_epoch=True, max_epochs=2)
default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', interval=1), logger=dict(type='LoggerHook', interval=1))
log_level = 'INFO'
randomness = dict(seed=0)
"""

CLASSIFIER = """
pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=32), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='CustomDataset', data_root={root!r}, data_prefix='train', pipeline=pipeline))
"""

DETECTOR = """
pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 64), keep_ratio=False), dict(type='PackDetInputs')]
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type={dataset!r}, data_root={root!r}, ann_file={ann_file!r}, data_prefix=dict(img='images/'),
        metainfo=dict(classes=tuple('abcde')), pipeline=pipeline,
        filter_cfg=dict(filter_empty_gt=True, min_size=16)))
test_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset', data_root={root!r}, ann_file='ann.json', data_prefix=dict(img='images/'),
        metainfo=dict(classes=tuple('abcde')), pipeline=pipeline, test_mode=True))
test_cfg = dict()
test_evaluator = dict(type='CocoMetric', ann_file={root!r} + '/ann.json')
"""


def image(folder: Path, name: str, seed: int, size: tuple[int, int] = (64, 64)) -> Path:
    """A file of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / name), noise)
    return folder / name


def write_classifier(folder: Path, images: int = 8, suffix: str = '.png') -> Path:
    """A config, and images of five classes beside it."""
    for i in range(images):
        image(folder / 'train' / 'abcde'[i % 5], f'{i}{suffix}', i, (32, 32))
    text = COMMON.format(scope='mmpretrain', model=tiny.classifier(True)) + CLASSIFIER.format(root=str(folder))
    return _write(folder / 'classifier.py', text)


def coco(images: int = 4) -> dict:
    """Annotations: two boxes an image."""
    listed = [dict(id=i, file_name=f'{i}.png', width=64, height=64) for i in range(images)]
    boxes = [(i, j) for i in range(images) for j in range(2)]
    annotations = [
        dict(id=n + 1, image_id=i, category_id=j, bbox=[4 + 20 * j, 8, 30, 28], area=840, iscrowd=0)
        for n, (i, j) in enumerate(boxes)
    ]
    return dict(images=listed, annotations=annotations, categories=[dict(id=i, name='abcde'[i]) for i in range(5)])


def write_detector(folder: Path, images: int = 4, ann_file: str = 'ann.json', dataset: str = 'CocoDataset') -> Path:
    """A config, images and their annotations beside it."""
    for i in range(images):
        image(folder / 'images', f'{i}.png', i)
    (folder / 'ann.json').write_text(json.dumps(coco(images)))
    data = DETECTOR.format(root=str(folder), ann_file=ann_file, dataset=dataset)
    return _write(folder / 'detector.py', COMMON.format(scope='mmdet', model=tiny.detector(True)) + data)


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def main(tool: str, *args) -> None:
    """Run a tool in this process; what is wrong is raised."""
    try:
        runpy.run_path(str(ROOT / 'tools' / f'{tool}.py'))['main']([str(arg) for arg in args])
    finally:
        # each loader that is left for the garbage collector waits five seconds for each of its workers
        for found in gc.get_objects():
            if type(found) is _MultiProcessingDataLoaderIter:
                found._shutdown_workers()


def run(tool: str, *args, limit: int = 900, **environment) -> subprocess.CompletedProcess:
    """Run a tool in a process of its own; its output is text, both streams together."""
    return subprocess.run(
        [sys.executable, ROOT / 'tools' / f'{tool}.py', *map(str, args)],
        env=own_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit,
    )


def own_environment(**more: str) -> dict[str, str]:
    """The environment of a process that finds the clone and the helpers of tests."""
    paths = f'{ROOT}{os.pathsep}{ROOT / "tests" / "support"}'
    return {**os.environ, 'PYTHONPATH': paths, 'OMP_NUM_THREADS': '1', **more}
