"""Silent layers are named in the log of a training, once; rates stand in the log line, and of every layer in a file."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import VISBACKENDS
from mmengine.visualization import BaseVisBackend
from tiny import classifier, runner
from torch import nn

from mmsnn.engine.hooks import FiringRateHook
from mmsnn.neurons import LIF, SpikeCounter

HOOK = dict(type='mmsnn.FiringRateHook', interval=4, window=2)
DEAD = dict(type='LIF', v_threshold=500.0)


@pytest.fixture
def train(tmp_path):
    """Trains a config of a model on noise; the runner, its log, and the lines of firing_rates.json."""

    def run(model, iterations=6, hook=HOOK, **kwargs):
        run = runner(model, 'mmpretrain', tmp_path, iterations, custom_hooks=[hook], **kwargs)
        for part in (run.logger, *run.logger.handlers):
            part.setLevel('INFO')
        run.train()
        lines = [*Path(run.log_dir).glob('vis_data/firing_rates.json')]
        windows = [json.loads(line) for path in lines for line in path.read_text().splitlines()]
        return run, Path(run.log_dir, f'{run.timestamp}.log').read_text(), windows

    yield run
    MMLogger._instance_dict.clear()


def silent(log):
    return [line for line in log.splitlines() if 'neuron layers are silent' in line]


def test_silent_network_is_named_once(train):
    run, log, windows = train(classifier(True, neuron=DEAD))
    (said,) = silent(log)
    assert 'WARNING' in said and 'In 2 training iterations 20 of 20 neuron layers are silent' in said
    assert 'backbone.neuron1, backbone.layer1.0.neuron1' in said and 'v_threshold 500' in said
    assert said.endswith('Some may begin to fire by themselves; silent_channels in the log then decreases.')
    assert len(windows) == 2 and 'silent_channels: 1.0000' in log


def test_a_layer_that_dies_later_is_named_then(train):
    class Kill(FiringRateHook):
        """Raises one layer's threshold after the first window."""

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            super().after_train_iter(runner, batch_idx, data_batch, outputs)
            neuron = runner.model.backbone.layer2[0].neuron1
            neuron.settings = replace(neuron.settings, v_threshold=500.0)

    _, log, _ = train(classifier(True, neuron=dict(type='LIF', v_threshold=0.1)), 10, Kill(interval=4, window=1))
    (said,) = silent(log)
    assert 'In 1 training iterations 2 of 20 neuron layers are silent' in said
    assert (
        ': backbone.layer2.0.neuron1, backbone.layer2.0.neuron2 (v_threshold' in said
        and 'Some may begin to fire' not in said
    )


def test_rates_are_those_of_the_network(train):
    """In the log line the network's, in the file every layer's, as counted outside of a runner."""
    run, log, windows = train(classifier(True), 5, val_interval=3)
    assert not silent(log)
    assert [(w['step'], w['iterations']) for w in windows] == [(2, 2), (5, 1)]
    lines = [line for line in log.splitlines() if '(train)' in line]
    shown = [re.search(r'firing_rate: (\S+)  silent_channels: (\S+)', line) for line in lines]
    assert shown[0] is None and all(shown[1:])
    layers = windows[0]['layers']
    assert [*layers] == list(SpikeCounter(run.model).axes)
    assert all(0 < layer['rate'] < 1 and 0 <= layer['silent_channels'] < layer['channels'] for layer in layers.values())
    assert layers['backbone.layer4.1.neuron2']['channels'] == 64
    dead = sum(layer['silent_channels'] for layer in layers.values())
    assert float(shown[1][2]) == pytest.approx(dead / sum(v['channels'] for v in layers.values()), abs=1e-4)
    # mmengine's own file keeps its lines
    scalars = [json.loads(line) for line in Path(run.log_dir, 'vis_data/scalars.json').read_text().splitlines()]
    assert len(scalars) == 5 and all('loss' in line for line in scalars)


@VISBACKENDS.register_module()
class Kept(BaseVisBackend):
    """In place of TensorBoard."""

    experiment = None
    scalars = []

    def _init_env(self):
        pass

    def add_scalars(self, scalar_dict, step=0, file_path=None):
        self.scalars.append((step, scalar_dict))


def test_visualisers_are_given_every_layer(train):
    backends = [dict(type='LocalVisBackend'), dict(type='Kept', save_dir='')]
    visualizer = dict(type='Visualizer', vis_backends=backends, name=f'{id(train)}')
    _, _, windows = train(Net(), 2, visualizer=visualizer)
    found = [(step, scalars) for step, scalars in Kept.scalars if 'firing_rate/neuron' in scalars]
    assert found == [(2, {'firing_rate/neuron': 0.0, 'silent_channels/neuron': 1.0})]
    assert windows[0]['layers']['neuron']['channels'] == 4


def test_training_is_the_same_and_nothing_is_left(tmp_path):
    found = []
    for hooks in ([], [dict(HOOK, interval=3)]):
        run = runner(classifier(True, with_cp=True), 'mmpretrain', tmp_path / str(len(hooks)), 4, custom_hooks=hooks)
        run.train()
        assert not [(n, m._forward_hooks) for n, m in run.model.named_modules() if m._forward_hooks]
        assert not any('firing' in key for key in run.message_hub.state_dict()['log_scalars'])
        found.append(run.model.state_dict())
    assert all((value == found[1][key]).all() for key, value in found[0].items())


def test_distiller_means_its_student(train):
    model = dict(
        type='mmsnn.Distiller',
        student=classifier(True, neuron=DEAD),
        teacher=classifier(True),
        losses=dict(loss_response=dict(type='LogitKL', student='head', teacher='head')),
    )
    _, log, windows = train(model, 2)
    assert '20 of 20 neuron layers are silent' in silent(log)[0]
    assert list(windows[0]['layers'])[0] == 'backbone.neuron1' and len(windows[0]['layers']) == 20


class Net(BaseModel):
    """A convolution and a neuron, quick to compile."""

    def __init__(self):
        super().__init__()
        self.conv, self.neuron = nn.Conv2d(3, 4, 3), LIF(1, v_threshold=1e6)

    def forward(self, inputs, data_samples, mode):
        return dict(loss=self.neuron(self.conv(torch.stack(inputs).float())).sum())


@pytest.mark.kernels
def test_compiled_training(train):
    """mmengine compiles the training step; hooks would be passed by."""
    _, log, windows = train(Net(), 6, cfg=dict(compile=dict(backend='eager')))
    assert len(silent(log)) == 1 and [list(w['layers']) for w in windows] == [['neuron']] * 2
    torch._dynamo.reset()


def test_network_without_neurons_is_left_alone(train):
    _, log, windows = train(classifier(False), 2)
    assert not windows and 'firing_rate' not in log


def test_window_must_fit():
    for interval, window in ((5, 6), (5, 0)):
        with pytest.raises(ValueError, match=f'window must lie in 1 to interval=5, got {window}'):
            FiringRateHook(interval, window)
