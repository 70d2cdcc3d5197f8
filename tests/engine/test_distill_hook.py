"""DistillHook in a runner: the teacher's accuracy beside the student's."""

import json

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmpretrain.evaluation import Accuracy
from tiny import Noise, classifier, runner

from mmsnn.checkpoints.reading import load_file
from mmsnn.engine.hooks import distill_hook

LOSSES = dict(loss_kl=dict(type='LogitKL', student='head', teacher='head'))


def train(folder, teacher=None, hook=None, losses=LOSSES, task='mmpretrain', **kwargs):
    model = dict(type='mmsnn.Distiller', student=classifier(True), teacher=teacher or classifier(False), losses=losses)
    run = runner(
        model,
        task,
        folder,
        iterations=4,
        val_interval=2,
        custom_hooks=[dict(type='mmsnn.DistillHook', **(hook or {}))],
        val_dataloader=dict(dataset=Noise(task), batch_size=3, num_workers=0, sampler=dict(type='DefaultSampler')),
        val_evaluator=dict(type='Accuracy', topk=(1,)),
        val_cfg=dict(),
        **kwargs,
    )
    run.train()
    return run, [json.loads(line) for line in next(folder.glob('*/vis_data/scalars.json')).read_text().splitlines()]


def validations(lines):
    return [line for line in lines if 'accuracy/top1' in line]


def test_accuracy_in_the_log(tmp_path):
    run, lines = train(tmp_path)
    data, teacher = Noise('mmpretrain'), run.model.teacher.model
    answers = torch.cat([teacher.val_step(data.batch(i))[0].pred_label for i in range(len(data))])
    expected = 100 * (answers == data.labels).float().mean().item()
    found = validations(lines)
    assert len(found) == 2
    assert [line['teacher/accuracy/top1'] for line in found] == pytest.approx([expected] * 2)
    # the student's own figure is its own
    assert all('accuracy/top1' in line for line in found)


def test_changes_nothing_else(tmp_path):
    with_it, without = (train(tmp_path / str(on), hook=dict(teacher_accuracy=on)) for on in (True, False))
    assert not [key for line in without[1] for key in line if key.startswith('teacher')]
    losses = [[line['loss'] for line in lines if 'loss' in line] for _, lines in (with_it, without)]
    assert len(losses[0]) == 4 and losses[0] == losses[1]
    weights = [run.model.state_dict() for run, _ in (with_it, without)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_no_word_of_it_in_the_file(tmp_path):
    run, _ = train(tmp_path)
    run.save_checkpoint(str(tmp_path), 'after.pth')
    hub = load_file(tmp_path / 'after.pth')['message_hub']
    assert 'val/accuracy/top1' in hub['resumed_keys']
    assert not [key for part in hub.values() for key in part if 'teacher' in key]


def test_a_teacher_that_cannot_answer_is_no_reason_to_stop(tmp_path):
    """Asked for features only, it needs no head."""
    losses = dict(loss_feature=dict(type='FeatureMSE', student='backbone.layer1', teacher='backbone.layer1'))
    teacher = {**classifier(False), 'head': None}
    _, lines = train(tmp_path, teacher, losses=losses)
    assert len(validations(lines)) == 2
    assert not [key for line in lines for key in line if key.startswith('teacher')]


def test_numpys_figures_count(tmp_path, monkeypatch):
    """mmseg's metrics are numpy's numbers; words are no figures."""
    figures = {'mIoU': np.float32(45.5), 'count': 3, 'table': 'a | b'}
    monkeypatch.setattr(distill_hook, 'evaluate', lambda *_: figures)
    _, lines = train(tmp_path)
    found = [{k: v for k, v in line.items() if k.startswith('teacher')} for line in validations(lines)]
    assert found == [{'teacher/mIoU': 45.5, 'teacher/count': 3}] * 2


def test_what_a_failed_measurement_collected_is_forgotten(tmp_path, monkeypatch):
    """Otherwise the next validation takes the teacher's answers for the student's."""
    monkeypatch.setattr(Accuracy, 'process', counting := Counting(Accuracy.process))

    def failing(teacher, student, loop):
        for batch in loop.dataloader:
            loop.evaluator.process(data_samples=teacher.predict(batch, student), data_batch=batch)
        raise IndexError('a class that the data set does not have')

    monkeypatch.setattr(distill_hook, 'evaluate', failing)
    run, lines = train(tmp_path)
    found = validations(lines)
    assert len(found) == 2 and counting.calls == 9  # three batches of the student, of the teacher, of the student
    monkeypatch.undo()
    _, alone = train(tmp_path / 'alone', hook=dict(teacher_accuracy=False))
    assert [line['accuracy/top1'] for line in found] == [line['accuracy/top1'] for line in validations(alone)]


class Counting:
    """A method that counts its calls."""

    def __init__(self, method):
        self.method, self.calls = method, 0

    def __get__(self, instance, owner):
        def call(*args, **kwargs):
            self.calls += 1
            return self.method(instance, *args, **kwargs)

        return call


class TestEpochs:
    """A training by iterations has epochs, too: each goes once through the data."""

    FADING = dict(kind='linear', values=[1.0, 0.0], milestones=[0, 2], by='epoch')

    def progress(self, folder, loader, iterations=10):
        found = []

        @HOOKS.register_module(force=True)
        class Noted(Hook):
            priority = 'VERY_LOW'

            def after_train_iter(self, runner, *_, **__):
                found.append((runner.model.progress, runner.model.terms[0].weight(runner.model.progress)))

        losses = dict(loss_kl=dict(LOSSES['loss_kl'], weight=self.FADING))
        model = dict(type='mmsnn.Distiller', student=classifier(True), teacher=classifier(False), losses=losses)
        hooks = [dict(type='mmsnn.DistillHook'), dict(type='Noted')]
        run = runner(model, 'mmpretrain', folder, iterations, custom_hooks=hooks)
        run._train_dataloader.update(loader)
        run.train()
        return found

    @pytest.mark.parametrize('sampler', ['DefaultSampler', 'InfiniteSampler'])
    def test_rounds(self, tmp_path, sampler):
        """Eight images in batches of two; two and a half rounds."""
        found = self.progress(tmp_path, dict(sampler=dict(type=sampler)))
        assert [(p.epoch, p.iter, p.iter_in_epoch, p.max_epochs) for p, _ in found] == [
            (i // 4, i, i % 4, 3) for i in range(10)
        ]
        assert [w for _, w in found] == [1.0] * 4 + [0.5] * 4 + [0.0] * 2


class TestConnectors:
    """Of a checkpoint that another distillation wrote."""

    FEATURE = dict(type='FeatureMSE', student='backbone.layer1', teacher='backbone.layer1')

    @pytest.fixture(scope='class')
    def checkpoint(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp('first')
        losses = dict(a=dict(self.FEATURE, connector=dict(type='ConvBN')), b=dict(self.FEATURE))
        losses['b']['connector'] = dict(type='ConvBN', kernel_size=3)
        run, _ = train(folder, losses=losses)
        run.save_checkpoint(str(folder), 'first.pth')
        return str(folder / 'first.pth'), run.model.connectors

    def losses(self, size):
        return dict(a=dict(self.FEATURE, connector=dict(type='ConvBN')),
                    b=dict(self.FEATURE, connector=dict(type='ConvBN', kernel_size=size)))  # fmt: skip

    def load(self, folder, checkpoint, losses, **kwargs):
        model = dict(type='mmsnn.Distiller', student=classifier(True), teacher=classifier(False), losses=losses)
        run = runner(model, 'mmpretrain', folder, load_from=checkpoint, custom_hooks=[dict(type='mmsnn.DistillHook')],
                     **kwargs)  # fmt: skip
        run.load_or_resume()
        return run.model.connectors

    def test_those_that_fit_are_loaded(self, checkpoint, tmp_path):
        path, first = checkpoint
        same = self.load(tmp_path / 'same', path, self.losses(3))
        assert all(torch.equal(x, first.state_dict()[k]) for k, x in same.state_dict().items())
        other = self.load(tmp_path / 'other', path, self.losses(1))
        assert torch.equal(other.loss_a[0][0].weight, first.loss_a[0][0].weight)
        # the norm would fit, but a connector is loaded as a whole
        assert not torch.equal(other.loss_b[0][1].running_mean, first.loss_b[0][1].running_mean)
        assert not len(self.load(tmp_path / 'none', path, LOSSES))

    def test_no_training_goes_on_with_them(self, checkpoint, tmp_path):
        with pytest.raises(ValueError, match='connectors of loss_b in this checkpoint are those of another distill'):
            self.load(tmp_path, checkpoint[0], self.losses(1), resume=True)
