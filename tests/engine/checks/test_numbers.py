"""Text where a number belongs is told before the training."""

import pytest
from mmengine.config import Config

from mmsnn.engine.checks import check_config
from mmsnn.engine.checks.numbers import check_numbers

YAML = """
default_scope: mmdet
model:
  type: RetinaNet
  backbone: {type: mmsnn.SEWResNet, depth: 18, T: 2, frozen_stages: '-1'}
optim_wrapper: {type: OptimWrapper, accumulative_counts: '4', optimizer: {type: SGD, lr: 1e-3, weight_decay: 1.0e-4}}
param_scheduler:
  - {type: MultiStepLR, by_epoch: 'False', milestones: [8, 11]}
  - {type: CosineAnnealingLR, T_max: 12x}
train_cfg: {by_epoch: true, max_epochs: '12', val_interval: 0}
default_hooks:
  checkpoint: {type: CheckpointHook, interval: 1, save_best: '3d'}
  logger: {type: LoggerHook, interval: '50'}
"""


def test_a_yaml_file(tmp_path):
    (tmp_path / 'mine.yaml').write_text(YAML)
    found = {finding.key: finding.text for finding in check_numbers(Config.fromfile(tmp_path / 'mine.yaml'))}
    texts = {
        'optim_wrapper.optimizer.lr': 'write 0.001 (YAML reads 1e-3 as text',
        'optim_wrapper.accumulative_counts': 'write 4',
        'param_scheduler.0.by_epoch': 'write it without quotes',
        'param_scheduler.1.T_max': "a truth value, got the text '12x'",
        'train_cfg.max_epochs': 'write 12',
        'train_cfg.val_interval': 'must be 1 or more, got 0; --no-validate',
        'default_hooks.logger.interval': 'write 50',
    }
    assert found.keys() - {'model.backbone.frozen_stages'} == texts.keys()
    assert all(text in found[key] for key, text in texts.items()), found


@pytest.mark.parametrize(
    'key, value, text',
    [
        ('randomness.seed', -3, 'a whole number from 0 to 2**32 - 1, got -3'),
        ('randomness.seed', 'x', "got 'x'"),
        ('log_level', 'FOO', 'DEBUG, INFO'),
    ],
)
def test_what_every_training_reads(key, value, text):
    cfg = Config()
    cfg.merge_from_dict({key: value})
    (found,) = check_numbers(cfg)
    assert found.key == key and text in found.text
    cfg.merge_from_dict({key: 3 if 'seed' in key else 'DEBUG'})
    assert not list(check_numbers(cfg))


def test_what_may_be_text_passes():
    """By its annotation, or because nothing is known of it."""
    cfg = Config(dict(
        default_scope='mmpretrain',
        custom_hooks=[dict(type='EarlyStoppingHook', monitor='1st', min_delta=0.1), dict(type='Unknown', interval='5')],
        val_evaluator=dict(type='Accuracy', prefix='2nd', topk=(1, 5)),
    ))  # fmt: skip
    assert not list(check_numbers(cfg))


@pytest.mark.parametrize('value, level', [('5', ['error']), (5, [])])
def test_a_training_refuses_it(value, level):
    cfg = Config(dict(default_hooks=dict(logger=dict(type='LoggerHook', interval=value))))
    assert [f.level for f in check_config(cfg, ('train',)) if f.key == 'default_hooks.logger.interval'] == level
