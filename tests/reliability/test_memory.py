"""R26: long trainings, tests and inference keep no memory."""

import os

import cli
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmsnn.building import build_model

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

    def after_iter(self, runner, batch_idx, data_batch=None, outputs=None, mode='train'):
        """After an iteration."""
        found = Memory.found.setdefault(mode, [])
        at = runner.iter if mode == 'train' else batch_idx
        if at % 50 == 0:
            found.append(resident())

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Of training."""
        self.after_iter(runner, batch_idx)

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Of testing."""
        self.after_iter(runner, batch_idx, mode='test')


pytestmark = pytest.mark.skipif(not os.path.exists('/proc/self/statm'), reason='needs Linux')


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


def check(tmp_path, iterations: int, workers: int, most: float, record_property) -> None:
    Memory.found = {}
    config = write(tmp_path, iterations, workers)
    cli.main('train', config, '--work-dir', tmp_path / 'run')
    values = Memory.found['train']
    assert len(values) == iterations // 50
    growth = grown(values, len(values) // 10)
    record_property('growth', growth)
    assert growth < most, f'{growth:.2%} in {iterations} iterations: {values}'


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 2])
def test_five_thousand_steps(tmp_path, workers, record_property):
    """After step 500, memory grows by less than a hundredth."""
    check(tmp_path, 5000, workers, 0.01, record_property)


# of a few hundred steps, caches that fill up are a larger part; these two are of no row
@pytest.mark.row('none')
def test_a_few_hundred_steps(tmp_path, record_property):
    check(tmp_path, 600, 0, 0.03, record_property)


@pytest.mark.row('none')
def test_a_leak_is_found(tmp_path, record_property, monkeypatch):
    """What the tests above are worth: a megabyte kept every ten iterations is seen."""
    kept = []

    def leak(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter % 10 == 0:
            kept.append(torch.rand(1 << 18))
        self.after_iter(runner, batch_idx)

    monkeypatch.setattr(Memory, 'after_train_iter', leak)
    with pytest.raises(AssertionError, match='in 600 iterations'):
        check(tmp_path, 600, 0, 0.03, record_property)


@pytest.mark.slow
def test_inference(tmp_path, record_property):
    """Five thousand predictions of one model."""
    cfg = Config.fromfile(write(tmp_path, 10, 0))
    model = build_model(cfg).eval()
    image = torch.randint(256, (3, 8, 8), dtype=torch.uint8)
    from mmpretrain.structures import DataSample

    values = []
    for step in range(5000):
        with torch.no_grad():
            model.test_step(dict(inputs=[image], data_samples=[DataSample()]))
        if step % 50 == 0:
            values.append(resident())
    growth = grown(values, 10)
    record_property('growth', growth)
    assert growth < 0.01, f'{growth:.2%}: {values}'


@pytest.mark.slow
def test_testing(tmp_path, record_property):
    """A test loop of five thousand batches, whose results are numbers."""
    config = write(tmp_path, 10, 0)
    cli.main('train', config, '--work-dir', tmp_path / 'run')
    Memory.found = {}
    text = config.read_text()
    repeated = "dict(type='RepeatDataset', times=250, dataset=train_dataloader['dataset'])"
    config.write_text(
        text + f'test_dataloader = dict(batch_size=1, num_workers=2, dataset={repeated}, '
        "sampler=dict(type='DefaultSampler', shuffle=False))\n"
    )
    cli.main('test', config, tmp_path / 'run' / 'iter_10.pth', '--work-dir', tmp_path / 'run')
    values = Memory.found['test']
    assert len(values) == 100
    growth = grown(values, 10)
    record_property('growth', growth)
    assert growth < 0.01, f'{growth:.2%}: {values}'
