"""What stands on the console before the first iteration; tests/tools/test_train_test.py sees whole trainings."""

import logging
from types import SimpleNamespace

import mmengine.runner
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch.utils.data import DataLoader

from mmsnn.engine import console
from mmsnn.neurons import LIF

RUNNER = mmengine.runner.runner.__file__


def record(text, level=logging.INFO, path=RUNNER):
    return logging.LogRecord('mmengine', level, path, 1, text, None, None)


class TestQuiet:
    def test_descriptions_and_deprecations_are_kept_back(self):
        quiet = console.Quiet()
        strategy = RUNNER.replace('runner.py', 'base.py').replace('/runner/', '/_strategy/')
        noise = record('\nSystem environment:\n a\n'), record('Config:\na = 1', path=strategy)
        noise += (record('"FileClient" will be deprecated in future', logging.WARNING),)
        assert not any(quiet.filter(r) for r in noise)
        quiet.over = True
        assert all(quiet.filter(r) for r in noise)

    @pytest.mark.parametrize(
        'text, level, path',
        [
            ('Load checkpoint from a.pth\n', logging.INFO, RUNNER),
            ('keys do not match:\n a\n b', logging.WARNING, RUNNER),
            ('a table\n of ours', logging.INFO, console.__file__),
            ('an error\n of two lines', logging.ERROR, RUNNER),
        ],
    )
    def test_the_rest_passes(self, text, level, path):
        assert console.Quiet().filter(record(text, level, path))


class Toy(BaseModel):
    def forward(self, inputs, data_samples=None, mode='tensor'):
        return inputs


@pytest.mark.parametrize('kind', ['Runner', 'FlexibleRunner'])
@pytest.mark.parametrize('verbose', [False, True])
def test_runners_are_quiet_from_the_beginning(kind, verbose, tmp_path, capsys):
    cfg = dict(
        model=dict(type=Toy), work_dir=str(tmp_path), experiment_name=str(tmp_path), env_cfg=dict(cudnn_benchmark=False)
    )
    runner = console.build(Config({**cfg, 'runner_type': kind}), verbose)
    assert type(runner).__name__ == kind and isinstance(runner, getattr(mmengine.runner, kind))
    shown = capsys.readouterr().out
    written = next(tmp_path.glob('*/*.log')).read_text()
    for text in ('System environment', 'Config:', 'Hooks will be executed'):
        assert text in written and (text in shown) == verbose


def test_unknown_runners_are_named():
    with pytest.raises(KeyError, match='NoRunner'):
        console.build(Config(dict(runner_type='NoRunner')))


class TestSummary:
    def test_of_a_distillation(self):
        student = torch.nn.Module()
        student.backbone = LIF(T=3)
        model = SimpleNamespace(student=student, teachers=dict(teacher=SimpleNamespace(model=Toy())))
        assert console.model_line(model) == 'Module (LIF, T=3), taught by Toy'

    def test_of_data(self, monkeypatch):
        loader = DataLoader(range(10), batch_size=4)
        assert console.data_line(loader) == '10 samples in batches of 4'
        monkeypatch.setattr(console, 'get_world_size', lambda: 2)
        assert console.data_line(loader) == '10 samples in batches of 4 on each of 2 processes'


def test_what_is_said_before_the_log_file_exists_stands_in_it(tmp_path):
    early = console.Early()
    print_log('an option is ignored', logger='current', level=logging.WARNING)
    logger = logging.Logger('run')
    logger.addHandler(logging.FileHandler(tmp_path / 'run.log'))
    early.write_to(logger)
    print_log('not this', logger='current')
    assert (tmp_path / 'run.log').read_text() == 'an option is ignored\n'
