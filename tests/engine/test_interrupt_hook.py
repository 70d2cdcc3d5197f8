"""InterruptHook beside hooks that exchange weights; tests/reliability has the rest."""

import os
import signal

import pytest
import torch
from mmengine.hooks import Hook
from tiny import Noise, classifier, runner

from mmsnn.checkpoints.reading import load_file


class SignalInValidation(Hook):
    """Keeps the weights of the training, and sends a signal before or within the first validation."""

    priority = 'VERY_HIGH'

    def __init__(self, at):
        self.at, self.seen = at, 0

    def before_val_epoch(self, runner):
        self.weights = {k: v.clone() for k, v in runner.model.state_dict().items()}

    def before_val_iter(self, runner, *_, **__):
        self.seen += 1
        if self.seen == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    'average, at',
    [
        (dict(type='EMAHook', momentum=0.3), 1),
        (dict(type='mmpretrain.EMAHook', momentum=0.3, evaluate_on_ema=False, evaluate_on_origin=True), 1),
        (dict(type='mmpretrain.EMAHook', momentum=0.3, evaluate_on_origin=True), 2),
        # the second pass over the images, with the weights of the training
        (dict(type='mmpretrain.EMAHook', momentum=0.3, evaluate_on_origin=True), 3),
    ],
)
def test_averages(tmp_path, average, at):
    """A resumed training goes on with its weights, not with the averages that were validated."""

    def run(folder, **kwargs):
        loader = dict(dataset=Noise('mmpretrain'), batch_size=4, num_workers=0)
        return runner(
            classifier(True),
            'mmpretrain',
            folder,
            iterations=4,
            val_interval=2,
            val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
            val_cfg=dict(),
            val_evaluator=dict(type='mmpretrain.Accuracy', topk=(1,)),
            custom_hooks=[dict(average), dict(type='mmsnn.InterruptHook')],
            **kwargs,
        )

    before = signal.getsignal(signal.SIGTERM)
    sender, training = SignalInValidation(at), run(tmp_path / 'first')
    training.register_hook(sender)
    with pytest.raises(SystemExit) as ended:
        training.train()
    assert ended.value.code == 128 + signal.SIGTERM and training.iter == 2
    key = 'head.fc.weight'
    saved = load_file(tmp_path / 'first/interrupted.pth')
    assert torch.equal(saved['ema_state_dict'][f'module.{key}'], sender.weights[key])
    assert not torch.equal(saved['state_dict'][key], sender.weights[key])
    assert signal.getsignal(signal.SIGTERM) is before
    resumed = run(tmp_path / 'second', load_from=str(tmp_path / 'first/interrupted.pth'), resume=True)
    resumed.call_hook('before_run')
    resumed.load_or_resume()
    assert all(torch.equal(x, sender.weights[k]) for k, x in resumed.model.state_dict().items())


class Fails(Hook):
    def after_train_iter(self, runner, *_, **__):
        raise ZeroDivisionError


@pytest.fixture
def python_handler():
    """Python's own handler of Ctrl-C, which the workers of pytest-xdist do not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_after_a_training_that_failed(tmp_path, python_handler):
    """In a notebook the next Ctrl-C belongs to what runs then, also while another training goes on."""
    before = python_handler
    for name in 'ab':
        hooks = [dict(type='mmsnn.InterruptHook')]
        training = runner(classifier(True), 'mmpretrain', tmp_path / name, iterations=2, custom_hooks=hooks)
        training.register_hook(Fails(), 'VERY_LOW')
        with pytest.raises(ZeroDivisionError):
            training.train()
        assert signal.getsignal(signal.SIGINT) is not before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before

    class Interrupted(Hook):
        def after_train_iter(self, runner, *_, **__):
            signal.raise_signal(signal.SIGINT)

    other = runner(classifier(True), 'mmpretrain', tmp_path / 'c', iterations=2, custom_hooks=hooks)
    other.register_hook(Fails(), 'VERY_LOW')
    with pytest.raises(ZeroDivisionError):
        other.train()
    plain = runner(classifier(True), 'mmpretrain', tmp_path / 'd', iterations=2)
    plain.register_hook(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        plain.train()
    assert signal.getsignal(signal.SIGINT) is before
