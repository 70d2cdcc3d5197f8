"""InterruptHook beside hooks that exchange weights; tests/reliability has the rest."""

import os
import signal

import pytest
import torch
from mmengine.hooks import Hook
from tiny import Noise, classifier, runner

from mmsnn.checkpoints.reading import load_file
from mmsnn.engine.resuming import newest_whole


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


class Validations(Hook):
    """Where validations took place, and the learning rate after each."""

    priority = 'LOWEST'

    def __init__(self):
        self.seen = []

    def after_val_epoch(self, runner, metrics=None):
        self.seen.append((runner.epoch, runner.iter, runner.optim_wrapper.get_lr()['lr'][0]))


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('stop', ['in the validation', 'killed', 'in the last validation'])
def test_a_validation_that_was_cut_off_is_made_up(tmp_path, by_epoch, stop):
    """Schedules that wait for a plateau miss no value: what follows equals the undisturbed training."""

    def run(folder, sender=None, **kwargs):
        loader = dict(dataset=Noise('mmpretrain'), batch_size=4, num_workers=0)
        loop = dict(type='mmsnn.EpochBasedTrainLoop', max_epochs=6, val_interval=2)
        if not by_epoch:
            loop = dict(type='mmsnn.IterBasedTrainLoop', max_iters=12, val_interval=4)
        training = runner(
            classifier(True),
            'mmpretrain',
            folder,
            train_cfg=loop,
            val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
            val_cfg=dict(),
            val_evaluator=dict(type='mmpretrain.Accuracy', topk=(1,)),
            # every value is worse than the threshold asks for
            param_scheduler=dict(
                type='ReduceOnPlateauLR', monitor='accuracy/top1', rule='greater', threshold=1e6, patience=0, factor=0.5
            ),
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', by_epoch=by_epoch, interval=2 if by_epoch else 4)
            ),
            custom_hooks=[dict(type='mmsnn.InterruptHook')],
            **kwargs,
        )
        seen = Validations()
        for hook in (seen, sender):
            if hook is not None:
                training.register_hook(hook)
        if sender:
            with pytest.raises(KeyboardInterrupt if stop == 'killed' else SystemExit):
                training.train()
        else:
            training.train()
        return seen.seen

    whole = run(tmp_path / 'whole')
    assert len(whole) == 3 and whole[0][2] > whole[2][2]
    batches = -(-len(Noise('mmpretrain')) // 4)
    sender = Stops(stop, 2 * batches + 1 if 'last' in stop else 1)
    first = run(tmp_path / 'parted', sender)
    assert first == (whole[:2] if 'last' in stop else [])
    second = run(tmp_path / 'parted', load_from=str(newest_whole(tmp_path / 'parted')[0]), resume=True)
    assert second == whole[len(first) :]


class Stops(SignalInValidation):
    """Ends a training at an iteration of the validation, by a signal or without a chance to save anything."""

    def __init__(self, how, at):
        super().__init__(at)
        self.how = how

    def before_val_iter(self, runner, *args, **kwargs):
        if self.how == 'killed':
            raise KeyboardInterrupt
        super().before_val_iter(runner)


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
