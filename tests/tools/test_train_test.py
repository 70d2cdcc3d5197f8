import json
import os
import pickle
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmsnn.engine.checkpoint import load_file

pytest.importorskip('mmpretrain', reason='the smallest task that trains is a classification')
ROOT = Path(__file__).parents[2]

CONFIG = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmsnn'])
data_root = {root!r}
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmsnn.SEWResNet', depth=18, T=2, stem='cifar', neuron=dict(type='LIF', v_threshold=0.2),
        base_channels=4, num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=8, loss=dict(type='CrossEntropyLoss'), topk=(1,)))
data_preprocessor = dict(num_classes=2, mean=[127.5] * 3, std=[30] * 3, to_rgb=True)
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='CustomDataset', data_root=data_root, data_prefix='train', pipeline=pipeline))
val_dataloader = dict(
    batch_size=3, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CustomDataset', data_root=data_root, data_prefix='val', pipeline=pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
train_cfg = dict(by_epoch=True, max_epochs=1)
val_cfg = test_cfg = dict()
visualizer = dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
"""

DISTILLED = """
_base_ = 'plain.py'
model = dict(
    _delete_=True, type='mmsnn.Distiller', student=_base_.model, teacher={{'type': 'nothing.that.exists'}},
    losses=dict(loss_x=dict(type='also.nothing')))
custom_hooks = [dict(type='mmsnn.DistillHook')]
"""


def environment():
    return {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}


def command(*args):
    done = subprocess.run(args, capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def tool(name):
    return runpy.run_path(str(ROOT / 'tools' / f'{name}.py'))


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """A folder with thirteen images of two classes, configs, and the work dir of one trained epoch."""
    home = tmp_path_factory.mktemp('home')
    rng = np.random.default_rng(0)
    for split, count in dict(train=4, val=2).items():
        for label in range(2):
            folder = home / 'data' / split / f'class{label}'
            folder.mkdir(parents=True)
            # an uneven last batch in val
            for i in range(count + (split == 'val' and label)):
                image = rng.integers(0, 128, (16, 16, 3)) + 120 * label
                cv2.imwrite(str(folder / f'{label}{i}.png'), image.astype(np.uint8))
    (home / 'plain.py').write_text(CONFIG.format(root=str(home / 'data')))
    (home / 'distilled.py').write_text(DISTILLED.format())
    command(sys.executable, ROOT / 'tools/train.py', home / 'plain.py', '--work-dir', home / 'run', '--seed', '3')
    return home


@pytest.fixture(scope='module')
def checkpoint(home):
    return str(home / 'run' / 'epoch_1.pth')


def log(home):
    return ''.join(path.read_text() for path in sorted((home / 'run').glob('*/*.log')))


def test_train(home, checkpoint):
    assert os.path.isfile(checkpoint)
    text = log(home)
    assert 'eta:' in text
    assert 'accuracy/top1' in text
    assert re.search(r'seed: 3\b', text)


@pytest.mark.skipif(torch.cuda.is_available(), reason='gloo is the backend where there is no GPU')
def test_resume_distributed_on_the_cpu(home, checkpoint):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    # two processes, started as users do
    command(
        'env', f'PATH={Path(sys.executable).parent}:{os.environ["PATH"]}', f'PORT={port}',
        ROOT / 'tools/dist_train.sh', home / 'plain.py', '2', '--work-dir', home / 'run', '--resume', '--no-validate',
        '--cfg-options', 'train_cfg.max_epochs=2',
    )  # fmt: skip
    assert (home / 'run' / 'epoch_2.pth').is_file()
    text = log(home)
    assert 'resumed epoch: 1' in text
    assert 'Distributed training: True' in text


def test_test_with_everything(home, checkpoint, tmp_path):
    metrics = tool('test')['main']([
        str(home / 'plain.py'), checkpoint, '--work-dir', str(tmp_path), '--benchmark',
        '--out', str(tmp_path / 'made' / 'predictions.pkl'), '--show-dir', str(tmp_path / 'drawn'), '--T', '3',
    ])  # fmt: skip
    with open(tmp_path / 'made' / 'predictions.pkl', 'rb') as file:
        assert len(pickle.load(file)) == 5
    assert len(list((tmp_path / 'drawn').rglob('*.png'))) == 5
    found = json.loads((tmp_path / 'benchmark.json').read_text())
    assert found['metrics'] == metrics
    assert found['images_per_second'] > 0 and found['peak_memory_mib'] > 0 and found['batch_size'] == 3
    assert found['energy']['T'] == 3 and found['energy']['images'] == 5
    assert all(0 <= rate <= 1 for rate in found['firing_rates'].values())
    assert found['firing_rates']['backbone.layer1.0.neuron1'] > 0
    rules = {layer['name']: layer['rule'] for layer in found['energy']['layers']}
    assert rules['backbone.conv1'] == rules['head.fc'] == 'analog MAC'
    assert rules['backbone.layer1.0.conv1'] == 'spike AC'
    assert rules['backbone.layer2.0.conv1'] == 'integer AC'


def test_distillation_config_tests_its_student(home, checkpoint, tmp_path):
    run = [checkpoint, '--work-dir', str(tmp_path)]
    plain = tool('test')['main']([str(home / 'plain.py'), *run])
    assert tool('test')['main']([str(home / 'distilled.py'), *run]) == plain


def test_tta(home, checkpoint, tmp_path):
    metrics = tool('test')['main']([str(home / 'plain.py'), checkpoint, '--work-dir', str(tmp_path), '--tta'])
    assert 'accuracy/top1' in metrics


def test_training_a_distiller_adds_its_hook(home):
    train = tool('train')
    args = train['parse_args']([str(home / 'distilled.py'), '--cfg-options', 'custom_hooks=[]'])
    cfg = train['read_config'](args)
    assert cfg.custom_hooks == []
    hook = dict(type='mmsnn.DistillHook')
    assert train['prepare'](cfg, args).custom_hooks.count(hook) == 1
    # the second time, it is there already
    assert train['prepare'](cfg, args).custom_hooks.count(hook) == 1


def test_options_reach_the_config(home):
    train = tool('train')
    args = train['parse_args']([str(home / 'plain.py'), '--amp', '--no-validate', '--resume', 'x.pth', '--seed', '0'])
    cfg = train['prepare'](train['read_config'](args), args)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper' and cfg.optim_wrapper.loss_scale == 'dynamic'
    assert cfg.val_cfg is cfg.val_dataloader is cfg.val_evaluator is None
    assert cfg.resume and cfg.load_from == 'x.pth' and cfg.randomness.seed == 0
    assert cfg.work_dir == 'work_dirs/plain'


@pytest.mark.parametrize(
    ('option', 'message'),
    [('--auto-scale-lr', 'base_batch_size'), ('--amp', 'optim_wrapper.type')],
)
def test_options_that_do_not_fit_are_named(home, option, message):
    train = tool('train')
    args = train['parse_args']([str(home / 'plain.py'), option, '--cfg-options', 'optim_wrapper.type=Other'])
    with pytest.raises(ValueError, match=message):
        train['prepare'](train['read_config'](args), args)


def test_missing_data_is_named_before_anything_is_built(home, tmp_path):
    with pytest.raises(FileNotFoundError, match='train_dataloader.dataset.data_prefix'):
        tool('train')['main']([
            str(home / 'plain.py'), '--work-dir', str(tmp_path),
            '--cfg-options', 'train_dataloader.dataset.data_prefix=gone', 'model.type=nothing',
        ])  # fmt: skip


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: {f'other.{k}': v for k, v in s.items()}, 'fits nothing'),
        (lambda s: {k: v for k, v in s.items() if 'layer2' not in k}, 'lacks weights of the backbone'),
        (lambda s: {**s, 'head.fc.bias': torch.zeros(7)}, r'head.fc.bias \(7,\) instead of \(2,\)'),
    ],
)
def test_checkpoint_that_does_not_fit(home, checkpoint, tmp_path, change, message):
    wrong = tmp_path / 'wrong.pth'
    torch.save(dict(state_dict=change(load_file(checkpoint)['state_dict'])), wrong)
    with pytest.raises(ValueError, match=message) as error:
        tool('test')['main']([str(home / 'plain.py'), str(wrong), '--work-dir', str(tmp_path)])
    assert str(wrong) in str(error.value) and 'Give the checkpoint' in str(error.value)


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize('name', ['train', 'test'])
def test_hostile_checkpoint_runs_nothing(home, tmp_path, name):
    file, trace = tmp_path / 'hostile.pth', tmp_path / 'trace'
    torch.save(dict(state_dict={'a': torch.zeros(1)}, meta=Hostile(trace)), file)
    where = ['--resume', str(file)] if name == 'train' else [str(file)]
    with pytest.raises(ValueError, match='hostile.pth was not loaded'):
        tool(name)['main']([str(home / 'plain.py'), *where, '--work-dir', str(tmp_path)])
    assert not trace.exists()


def test_text_in_a_checkpoint_is_not_run_on_resume(home, checkpoint, tmp_path):
    trace, file = tmp_path / 'trace', tmp_path / 'hostile.pth'
    content = load_file(checkpoint)
    content['meta']['config'] = f'open({str(trace)!r}, "w")'
    torch.save(content, file)
    tool('train')['main']([str(home / 'plain.py'), '--resume', str(file), '--work-dir', str(tmp_path)])
    assert not trace.exists()


def test_missing_checkpoint_is_named(home):
    with pytest.raises(FileNotFoundError, match='gone.pth'):
        tool('test')['main']([str(home / 'plain.py'), 'gone.pth'])


@pytest.mark.parametrize('script', sorted(path.name for path in (ROOT / 'tools').glob('*.sh')))
def test_shell_scripts_parse(script):
    assert os.access(ROOT / 'tools' / script, os.X_OK)
    command('bash', '-n', ROOT / 'tools' / script)
