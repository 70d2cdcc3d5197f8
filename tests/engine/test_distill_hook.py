"""DistillHook in a runner: the teacher's accuracy beside the student's."""

import json

import numpy as np
import pytest
import torch
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
