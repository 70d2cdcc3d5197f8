"""A small training that writes down what memory its process holds; for a process of its own."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cli
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, METRICS

MODEL = """
model = dict(
    _delete_=True, type='ImageClassifier',
    backbone=dict(
        type='mmsnn.SEWResNet', depth=18, T=2, stem='cifar', base_channels=4, num_stages=1, strides=(1,),
        dilations=(1,), out_indices=(0,)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=5, in_channels=4, topk=(1,)),
    data_preprocessor=dict(mean=[127.5] * 3, std=[30] * 3))
pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=8), dict(type='PackInputs')]
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=pipeline))
val_dataloader = {{_base_.train_dataloader}}
val_cfg = dict()
val_evaluator = dict(type='Accuracy', topk=(1,))
test_dataloader, test_cfg, test_evaluator = val_dataloader, val_cfg, val_evaluator
custom_hooks = [dict(type='Memory')]
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=100000))
log_level = 'ERROR'
"""


def resident() -> int:
    """Memory that this process holds, in bytes."""
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


@HOOKS.register_module(force=True)
class Memory(Hook):
    """Writes down what the process holds, every fifty iterations of any loop."""

    found: dict[str, list[int]] = {}

    def __init__(self, leaks: bool = False):
        self.leaks, self.kept = leaks, []

    def after_iter(self, runner, batch_idx, data_batch=None, outputs=None, mode='train'):
        """After an iteration."""
        found = Memory.found.setdefault(mode, [])
        at = runner.iter if mode == 'train' else batch_idx
        if at % 50 == 0:
            found.append(resident())

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Of training."""
        if self.leaks and runner.iter % 10 == 0:
            self.kept.append(torch.rand(1 << 18))
        self.after_iter(runner, batch_idx)

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Of testing."""
        self.after_iter(runner, batch_idx, mode='test')


@METRICS.register_module(force=True)
class KeepsNothing(BaseMetric):
    """A metric that counts images and keeps nothing else, so that what grows is the loop's."""

    def process(self, data_batch, data_samples):
        """Of a batch."""
        self.results = [sum(self.results) + len(data_samples)]

    def compute_metrics(self, results):
        """Of all batches."""
        return dict(images=sum(results))


def write(folder, iterations: int, workers: int) -> str:
    base = cli.write_classifier(folder, images=20)
    path = folder / 'memory.py'
    path.write_text(
        f"_base_ = '{base.name}'\n{MODEL}\n"
        f'train_cfg = dict(_delete_=True, by_epoch=False, max_iters={iterations}, val_interval={iterations // 5})\n'
        f"train_dataloader.update(num_workers={workers}, sampler=dict(type='InfiniteSampler', shuffle=True))\n"
    )
    return path


def grown(values: list[int], warm: int) -> float:
    """The growth from a tenth of the run on, as a part of what there was."""
    return values[-1] / values[warm] - 1


def train(folder: Path, iterations: int, workers: int, leaks: bool = False) -> list[int]:
    """What this process holds, every fifty iterations of a training; ``leaks``: a megabyte is kept every ten."""
    Memory.found = {}
    config = write(folder, iterations, workers)
    config.write_text(config.read_text().replace("dict(type='Memory')", f"dict(type='Memory', leaks={leaks})"))
    cli.main('train', config, '--work-dir', folder / 'run')
    return Memory.found['train']


def train_alone(*args, **settings) -> list[int]:
    """`train` in a fresh process, whose memory holds nothing else in which growth could hide."""
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        return pool.submit(train, *args, **settings).result()
