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
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmsnn.checkpoints.reading import load_file
from mmsnn.engine import cli
from mmsnn.neurons import Neuron
from mmsnn.ops import extension

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


def test_the_console_is_quiet_and_the_log_file_whole(home, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(extension, 'serving', lambda device: 'plain PyTorch, say')
    counts = {}
    for option in ('--no-validate', '--verbose'):
        extension.use.cache_clear()
        folder = tmp_path / option
        tool('train')['main']([str(home / 'plain.py'), '--work-dir', str(folder), option])
        texts = capsys.readouterr().out, next(folder.glob('*/*.log')).read_text()
        shown, written = (text.partition('Epoch(train)')[0] for text in texts)
        counts[option] = len(shown.splitlines())
        assert len(written.splitlines()) > 200
        for text in (f'training {home / "plain.py"}', 'ImageClassifier (SEWResNet, T=2)', '8 samples in batches of 4'):
            assert text in shown and text in written
        for text in (shown, written):
            assert text.count('mmsnn ops on the CPU: plain PyTorch, say') == 1
    assert counts['--no-validate'] < 25 and counts['--verbose'] > 200


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


def test_engines(home, checkpoint, tmp_path, capsys):
    """The same accuracy on events, and a table of which layer ran how."""
    test = tool('test')['main']
    plain, event, auto = (
        test([str(home / 'plain.py'), checkpoint, '--work-dir', str(tmp_path), '--engine', engine])
        for engine in ('dense', 'event', 'auto')
    )
    assert plain == event == auto
    said = capsys.readouterr().out
    assert said.count('Event-driven') == 2
    (line,) = [line for line in said.splitlines() if 'backbone.layer1.0.conv2' in line][:1]
    assert 'event' in line and '%' in line


def test_several_numbers_of_time_steps(home, checkpoint, tmp_path, capsys):
    test, run = tool('test')['main'], [checkpoint, '--work-dir', str(tmp_path)]
    rows = test([str(home / 'plain.py'), *run, '--T', '1', '3'])
    assert [row['T'] for row in rows] == [1, 3]
    assert json.loads((tmp_path / 'time_steps.json').read_text())['rows'] == rows
    for row in rows:
        single = test([str(home / 'plain.py'), *run, '--T', str(row['T']), '--benchmark'])
        found = json.loads((tmp_path / 'benchmark.json').read_text())
        assert row['accuracy/top1'] == single['accuracy/top1']
        assert row['energy_uj'] == found['energy']['energy_uj']
        assert row['energy_with_memory_uj'] > row['energy_uj'] and row['ms_per_image'] > 0
        assert row['ms_per_image_events'] is None
    assert 'Accuracy, energy and time against T' in capsys.readouterr().out
    # both ways are timed, each under its name
    for row in test([str(home / 'plain.py'), *run, '--T', '1', '3', '--engine', 'event']):
        assert row['ms_per_image'] > 0 and row['ms_per_image_events'] > 0
        assert row['ms_per_image'] != row['ms_per_image_events']


def test_early_exit(home, checkpoint, tmp_path, capsys):
    options = [checkpoint, '--work-dir', str(tmp_path), '--T', '3', '--exit-confidence', '0.5', '1.0']
    rows = tool('test')['main']([str(home / 'plain.py'), *options])
    assert [row['exit_confidence'] for row in rows] == [None, 0.5, 1.0]
    # of two classes one always has a score of a half
    assert rows[1]['mean_T'] == 1 and rows[1]['left_after_1'] == 1 and rows[0]['mean_T'] == 3
    assert rows[2]['accuracy/top1'] == rows[0]['accuracy/top1'] and rows[2]['mean_T'] > 2
    assert all(row['ms_per_image'] > 0 for row in rows)
    assert json.loads((tmp_path / 'early_exit.json').read_text())['rows'] == rows
    assert 'mean number of time steps with early exit' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--T', '1', '2', '--benchmark'], 'leave out --benchmark'),
        (['--T', '1', '2', '--exit-confidence', '0.9'], 'give one --T'),
        (['--exit-confidence', '90'], 'at most 1'),
        (['--exit-confidence', '0.9', '--engine', 'event'], 'leave out --engine'),
        (['--exit-confidence', '0.9', '--show-dir', 'x'], 'leave out --show-dir'),
        (['--T', '0'], 'at least 1'),
    ],
)
def test_options_of_several_runs(home, checkpoint, options, message, capsys):
    with pytest.raises(SystemExit):
        tool('test')['main']([str(home / 'plain.py'), checkpoint, *options])
    assert message in capsys.readouterr().err


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


def test_options_reach_the_config(home, monkeypatch):
    train = tool('train')
    monkeypatch.setitem(train['use_amp'].__globals__, 'get_device', lambda: 'cuda')
    args = train['parse_args']([str(home / 'plain.py'), '--amp', '--no-validate', '--resume', 'x.pth', '--seed', '0'])
    cfg = train['prepare'](train['read_config'](args), args)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper' and cfg.optim_wrapper.loss_scale == 'dynamic'
    assert cfg.val_cfg is cfg.val_dataloader is cfg.val_evaluator is None
    assert cfg.resume and cfg.load_from == 'x.pth' and cfg.randomness.seed == 0
    assert cfg.work_dir == 'work_dirs/plain'


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, mixed precision is mmengine's")
def test_mixed_precision_on_a_cpu(home, tmp_path):
    """In bfloat16: convolutions and neurons run in it, weights and losses stay float32, and a run resumes."""
    seen = []

    @HOOKS.register_module(name='SeenPrecision', force=True)
    class SeenPrecision(Hook):
        def before_train(self, runner):
            neuron = next(m for m in runner.model.modules() if isinstance(m, Neuron))
            neuron.register_forward_hook(lambda _, inputs, spikes: seen.extend((inputs[0].dtype, spikes.dtype)))

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            # checks before the training run in float32
            seen.clear()

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            assert {p.dtype for p in runner.model.parameters()} == {torch.float32}
            assert outputs['loss'].dtype == torch.float32 and outputs['loss'].isfinite()

    config = home / 'precision.py'
    config.write_text("_base_ = 'plain.py'\nval_cfg = val_dataloader = val_evaluator = None\n")
    watched = home / 'watched.py'
    watched.write_text("_base_ = 'precision.py'\ncustom_hooks = [dict(type='SeenPrecision')]\n")
    options = ['--amp', '--work-dir', str(tmp_path)]
    tool('train')['main']([str(watched), *options])
    assert set(seen) == {torch.bfloat16}
    state = load_file(tmp_path / 'epoch_1.pth')['state_dict']
    assert {v.dtype for v in state.values() if v.is_floating_point()} == {torch.float32}
    tool('train')['main']([str(config), '--resume', *options, '--cfg-options', 'train_cfg.max_epochs=2'])
    assert (tmp_path / 'epoch_2.pth').is_file()


def test_every_run_of_a_process_writes_into_its_own_folder(home, tmp_path):
    """Also where the config names its visualizer, as those of mmdet do."""
    config = home / 'named.py'
    config.write_text("_base_ = 'plain.py'\nvisualizer = dict(name='visualizer')\n")
    for run in ('first', 'second'):
        tool('train')['main']([str(config), '--work-dir', str(tmp_path / run)])
        (scalars,) = (tmp_path / run).glob('*/vis_data/scalars.json')
        assert 'loss' in scalars.read_text()


def test_runs_of_one_second_have_their_own_logs(home, tmp_path):
    runs = ['0', '1', '2', '3']
    for run in runs:
        cfg = Config.fromfile(home / 'plain.py')
        cfg.work_dir = str(tmp_path / run)
        cli.complete_loaders(cfg)
        cli.build_runner(cfg)
    assert sorted(path.parts[-3] for path in tmp_path.glob('*/*/*.log')) == runs


def test_other_precision_on_a_cpu(home, tmp_path, monkeypatch):
    train = tool('train')
    monkeypatch.setitem(train['use_amp'].__globals__, 'get_device', lambda: 'cpu')
    options = ['--amp', '--work-dir', str(tmp_path), '--cfg-options', 'optim_wrapper.dtype=float16']
    with pytest.raises(ValueError, match="dtype='float16': mixed precision on a CPU takes bfloat16 alone"):
        train['main']([str(home / 'plain.py'), *options])


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


def test_wrapped_names_are_tested(home, checkpoint, tmp_path):
    """Of a model that was compiled and trained in parallel."""
    file, found = tmp_path / 'wrapped.pth', []
    state = {f'module._orig_mod.{k}': v for k, v in load_file(checkpoint)['state_dict'].items()}
    torch.save(dict(state_dict=state), file)
    for path in (checkpoint, file):
        dump = tmp_path / f'{Path(path).stem}.pkl'
        tool('test')['main']([str(home / 'plain.py'), str(path), '--work-dir', str(tmp_path), '--out', str(dump)])
        found.append(torch.stack([sample['pred_score'] for sample in pickle.loads(dump.read_bytes())]))
    assert torch.equal(*found)


class TestWeightsOfOthers:
    """What a training may begin with, through the command line."""

    @pytest.fixture
    def state(self, checkpoint):
        generator = torch.Generator().manual_seed(5)
        state = load_file(checkpoint)['state_dict']
        return {k: torch.rand(v.shape, generator=generator).to(v.dtype) for k, v in state.items()}

    @pytest.fixture
    def train(self, home, tmp_path):
        """Trains with a learning rate of 0 and returns the weights at the end, which are those at the beginning."""

        def run(*arguments, epochs=1, **options):
            options = {'optim_wrapper.optimizer.lr': 0.0, 'train_cfg.max_epochs': epochs, **options}
            options = [f'{key}={value}' for key, value in options.items()]
            work = ['--work-dir', str(tmp_path / 'work'), '--no-validate']
            tool('train')['main']([str(home / 'plain.py'), *work, *arguments, '--cfg-options', *options])
            return load_file(tmp_path / 'work' / f'epoch_{epochs}.pth')['state_dict']

        return run

    @staticmethod
    def kernels(state):
        return {k: v for k, v in state.items() if v.dim() > 1}

    def same(self, found, state):
        assert len(self.kernels(state)) > 8
        assert all(torch.equal(found[k], v) for k, v in self.kernels(state).items())

    @staticmethod
    def log(tmp_path):
        return ''.join(path.read_text() for path in (tmp_path / 'work').glob('*/*.log'))

    def test_init_cfg_of_a_foreign_layout(self, train, tmp_path, state):
        """Frozen stages, too, hold what the file holds."""
        release = {}
        for key, value in state.items():
            key = re.sub(r'(layer\d\.\d)\.conv(\d)\.', r'\1.conv\2.module.0.', key.removeprefix('backbone.'))
            key = re.sub(r'(layer\d\.\d)\.bn(\d)\.', r'\1.conv\2.module.1.', key).removeprefix('head.')
            release[re.sub(r'downsample\.(\d)\.', r'downsample.0.module.\1.', key)] = value
        torch.save(dict(model=release, epoch=3), tmp_path / 'sew.pth')
        init = dict(type='Pretrained', checkpoint=str(tmp_path / 'sew.pth'))
        options = {f'model.backbone.init_cfg.{key}': value for key, value in init.items()}
        found = train(**options, **{'model.backbone.frozen_stages': 1})
        self.same(found, {k: v for k, v in state.items() if k.startswith('backbone.')})
        assert 'layout resnet' in self.log(tmp_path)
        torch.save({k.replace('.conv', '.c'): v for k, v in release.items()}, tmp_path / 'sew.pth')
        with pytest.raises(ValueError, match='backbone.init_cfg.checkpoint: .*sew.pth.*python -m mmsnn convert'):
            train(**options)

    def test_load_from(self, train, tmp_path, state):
        torch.save(dict(state_dict={f'module._orig_mod.{k}': v for k, v in state.items()}), tmp_path / 'x.pth')
        self.same(train(load_from=tmp_path / 'x.pth'), state)

    def test_load_from_a_file_that_is_not_there(self, train, tmp_path):
        (tmp_path / 'there.pth').touch()
        for arguments, options, key in (
            ([], dict(load_from=tmp_path / 'gone.pth'), 'load_from'),
            (['--resume', str(tmp_path / 'gone.pth')], {}, '--resume'),
        ):
            with pytest.raises(FileNotFoundError, match=f"{key}: there is no .*gone.pth'; in '.*' there is there.pth"):
                train(*arguments, **options)

    def test_load_from_with_other_classes(self, train, tmp_path, state):
        state['head.fc.weight'] = torch.rand(7, 8)
        torch.save(dict(state_dict=state), tmp_path / 'x.pth')
        found = train(load_from=tmp_path / 'x.pth')
        del state['head.fc.weight']
        self.same(found, state)
        assert 'stay random: head.fc.weight (7, 8) instead of (2, 8)' in self.log(tmp_path)

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            (lambda s: {f'other.{k}': v for k, v in s.items()}, 'fits nothing'),
            (lambda s: {k.replace('layer2', 'stage2'): v for k, v in s.items()}, 'lacks weights of the backbone'),
            (lambda s: {**s, 'backbone.conv1.weight': torch.rand(4, 3, 7, 7)}, r'shapes .*\(4, 3, 7, 7\) instead of'),
        ],
    )
    def test_load_from_another_model(self, train, tmp_path, state, change, message):
        torch.save(dict(state_dict=change(state)), tmp_path / 'x.pth')
        with pytest.raises(ValueError, match=f'load_from: {tmp_path}/x.pth .*{message}'):
            train(load_from=tmp_path / 'x.pth')
        assert not list((tmp_path / 'work').glob('*.pth'))

    def test_resume(self, train, checkpoint, tmp_path):
        """Of a training whose model was compiled."""
        content = load_file(checkpoint)
        state = content['state_dict']
        content['state_dict'] = {f'_orig_mod.{k}': v for k, v in state.items()}
        content['optimizer']['param_groups'][0]['lr'] = 0.0
        torch.save(content, tmp_path / 'x.pth')
        self.same(train('--resume', str(tmp_path / 'x.pth'), epochs=2), state)

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            (lambda c: c['state_dict'].pop('head.fc.bias'), 'lacks weights of ImageClassifier: head.fc.bias'),
            (
                lambda c: c['state_dict'].update({'neck.x': torch.rand(1)}),
                'holds entries that ImageClassifier does not have: neck.x',
            ),
            (lambda c: c.pop('optimizer'), 'holds no optimizer, so no training can continue'),
            (lambda c: c.pop('meta'), 'holds no epoch and no iter'),
            (lambda c: c.pop('message_hub'), 'holds no message_hub'),
        ],
    )
    def test_resuming_another_model(self, train, checkpoint, tmp_path, change, message):
        content = load_file(checkpoint)
        change(content)
        torch.save(content, tmp_path / 'x.pth')
        with pytest.raises(ValueError, match=f'--resume: {tmp_path}/x.pth {message}.*load_from={tmp_path}/x.pth'):
            train('--resume', str(tmp_path / 'x.pth'), epochs=2)

    @pytest.mark.parametrize('distilled', [True, False])
    def test_resuming_with_the_parameters_of_another_optimizer(self, train, checkpoint, tmp_path, distilled):
        """Such as connectors, which a plain training does not have."""
        content = load_file(checkpoint)
        parameters = content['optimizer']['param_groups'][0]['params']
        count = len(parameters)
        parameters.append(count)
        content.update(connectors={'x.weight': torch.rand(1)} if distilled else {})
        torch.save(content, tmp_path / 'x.pth')
        which = r' \(those of a distillation, with its connectors\)' if distilled else ''
        said = (
            f'x.pth holds {count + 1} parameters in 1 groups{which}, that of this training {count} in 1: .*load_from='
        )
        with pytest.raises(ValueError, match=said):
            train('--resume', str(tmp_path / 'x.pth'), epochs=2)


@pytest.mark.parametrize(
    ('options', 'message'), [(['--out', '{}/x.pkl'], '--out: '), (['--work-dir', '{}'], 'work_dir: ')]
)
def test_where_nothing_can_be_written(home, checkpoint, tmp_path, options, message):
    """Said before the test set is run."""
    (tmp_path / 'file').touch()
    where = [option.format(tmp_path / 'file/x') for option in options]
    rest = [] if '--work-dir' in where else ['--work-dir', str(tmp_path / 'work')]
    with pytest.raises(OSError, match=f'{message}.*cannot be written'):
        tool('test')['main']([str(home / 'plain.py'), checkpoint, *where, *rest])


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
