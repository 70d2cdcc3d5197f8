"""The configs that the sweep over firing rates makes; its trainings and its plot are not tested."""

import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

ROOT = Path(__file__).parents[2]
CONFIG = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmsnn'])
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmsnn.SEWResNet', depth=18, T=2, stem='cifar', base_channels=4, num_stages=2, strides=(1, 2),
        dilations=(1, 1), out_indices=(1,)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=8, loss=dict(type='CrossEntropyLoss'), topk=(1,)))
data_preprocessor = dict(num_classes=2, mean=[127.5] * 3, std=[30] * 3, to_rgb=True)
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='CustomDataset', data_root={root!r}, data_prefix='', pipeline=pipeline))
test_dataloader = dict(train_dataloader, sampler=dict(type='DefaultSampler', shuffle=False))
test_evaluator = dict(type='Accuracy', topk=(1,))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.02, momentum=0.9))
train_cfg = dict(by_epoch=True, max_epochs=6)
test_cfg = dict()
default_hooks = dict(checkpoint=dict(type='CheckpointHook', max_keep_ckpts=1))
"""


@pytest.fixture(scope='module')
def tool():
    return runpy.run_path(str(ROOT / 'tools/analysis_tools/rate_sweep.py'))


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    home = tmp_path_factory.mktemp('sweep')
    rng = np.random.default_rng(0)
    for label in range(2):
        (home / 'data' / f'class{label}').mkdir(parents=True)
        for i in range(8):
            image = rng.integers(0, 128, (16, 16, 3)) + 120 * label
            cv2.imwrite(str(home / 'data' / f'class{label}' / f'{i}.png'), image.astype(np.uint8))
    (home / 'small.py').write_text(CONFIG.format(root=str(home / 'data')))
    return home / 'small.py'


class TestTarget:
    def test_a_plain_student_gets_a_distiller(self, tool, config):
        cfg = tool['with_target'](Config.fromfile(config), 'rate', 0.05, 2.0)
        assert cfg.model.type == 'mmsnn.Distiller' and cfg.model.student == Config.fromfile(config).model
        assert cfg.model.losses == dict(loss_rate=dict(type='mmsnn.FiringRate', rate=0.05, weight=2.0))

    @pytest.mark.parametrize('target', [None, 0.03])
    def test_other_terms_and_settings_stay(self, tool, target):
        cfg = Config.fromfile(ROOT / 'configs/low_rate/retinanet_sew18_bccd_5.py')
        before = cfg.model.losses.to_dict()
        losses = tool['with_target'](cfg, 'rate', target, None).model.losses.to_dict()
        rate = before.pop('loss_rate')
        assert losses == (before if target is None else {**before, 'loss_rate': {**rate, 'rate': 0.03}})
        assert cfg.model.losses.loss_rate.rate == 0.05

    def test_gradients_are_clipped_unless_the_config_says_how(self, tool, config):
        cfg = Config.fromfile(config)
        assert tool['with_target'](cfg, 'rate', None, None).optim_wrapper.clip_grad == dict(max_norm=1)
        cfg.optim_wrapper.clip_grad = dict(max_norm=3)
        assert tool['with_target'](cfg, 'rate', 0.1, None).optim_wrapper.clip_grad == dict(max_norm=3)

    def test_synops_take_the_place_of_a_rate(self, tool):
        cfg = Config.fromfile(ROOT / 'configs/low_rate/retinanet_sew18_bccd_5.py')
        term = tool['with_target'](cfg, 'synops', 1e6, 3.0).model.losses.loss_rate
        assert 'rate' not in term and (term.synops, term.weight) == (1e6, 3.0)
