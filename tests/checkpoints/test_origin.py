"""Files of a network whose twin has the same names and shapes."""

import pytest
import tiny
import torch
from mmengine.config import Config

from mmsnn.building import build_model
from mmsnn.checkpoints import origin
from mmsnn.checkpoints.fitting import load_weights
from mmsnn.checkpoints.loading import CheckMatch
from mmsnn.checkpoints.task_models import load_model
from mmsnn.distill.teacher import Teacher

SPIKING = dict(type='mmsnn.SEWResNet', depth=18, base_channels=4, T=2, neuron=dict(type='LIF', tau=2.0))


def config(**backbone) -> Config:
    model = dict(
        type='mmpretrain.ImageClassifier',
        backbone={**SPIKING, **backbone},
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=3, in_channels=32),
    )
    return Config(dict(default_scope='mmpretrain', model=model, data_preprocessor=dict(num_classes=3)))


@pytest.fixture
def file(tmp_path):
    """A checkpoint as a runner writes it."""
    cfg = config()
    path = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict=build_model(cfg).state_dict(), meta=dict(cfg=cfg.pretty_text)), path)
    return str(path)


@pytest.fixture
def said(monkeypatch):
    """What is logged, in one string."""
    text = ['']

    def note(line, *_):
        text[0] += line

    monkeypatch.setattr(origin, 'print_log', note)
    return text


OTHERS = {
    'model.backbone.neuron.tau: 2.0 -> 4.0': dict(neuron=dict(type='LIF', tau=4.0)),
    "model.backbone.neuron.type: 'LIF' -> 'IF'": dict(neuron=dict(type='IF')),
    "model.backbone.type: 'SEWResNet' -> 'SpikingResNet'": dict(type='mmsnn.SpikingResNet'),
}


@pytest.mark.parametrize('text', OTHERS)
def test_another_network(file, said, text):
    load_model(config(**OTHERS[text]), file)
    assert f'{file} was trained with another network' in said[0] and text in said[0]


def test_a_spiking_teacher(file, said):
    cfg = config(type='mmsnn.SpikingResNet')
    Teacher(cfg.model, file).load()
    assert "'SEWResNet' -> 'SpikingResNet'" in said[0]


def test_the_same_network(file, said):
    """With another number of steps, in a Distiller, or for test-time augmentation, it stays the same."""
    load_model(config(T=4, packed_spikes=True), file)
    cfg = config()
    load_weights(build_model(cfg), file, cfg=dict(type='mmsnn.Distiller', student=cfg.model))
    load_weights(build_model(cfg), file, cfg=dict(type='AverageClsScoreTTA', module=cfg.model))
    assert 'another network' not in said[0]


@pytest.mark.parametrize('content', ['(' * 9999, 'model = 3', 'model = dict(**x)', 'x = 1', 7])
def test_texts_that_say_nothing(tmp_path, said, content):
    path = tmp_path / 'odd.pth'
    torch.save(dict(state_dict=build_model(config()).state_dict(), meta=dict(cfg=content)), path)
    load_model(config(), str(path))
    assert 'another network' not in said[0]


def test_through_a_runner(file, said, tmp_path):
    """As tools/test.py loads weights."""
    cfg = config(neuron=dict(type='IF'))
    runner = tiny.runner(dict(cfg.model, data_preprocessor=cfg.data_preprocessor), 'mmpretrain', tmp_path / 'run')
    runner.register_hook(CheckMatch())
    runner.cfg, runner._load_from = cfg, file
    runner.load_checkpoint(file)
    assert "'LIF' -> 'IF'" in said[0]
