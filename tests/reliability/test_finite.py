"""R17: NaN and infinity stop a training in the iteration in which they appear, and reach no weight and no file."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import losses  # noqa: F401 registers a wrapper with a loss scaler
import pytest
import tiny
import torch
from mmengine.hooks import Hook

from mmsnn.engine.hooks import NonFiniteError
from mmsnn.engine.resuming import checkpoints

FEATURE = dict(type='FeatureMSE', student='backbone.layer4', teacher='backbone.layer4', weight=1.0)


def student_and_teacher():
    return dict(
        type='mmsnn.Distiller',
        student=tiny.classifier(True),
        teacher=tiny.classifier(False),
        losses=dict(loss_feature=dict(FEATURE)),
    )


def runner(tmp_path, model=None, task='mmpretrain', **kwargs):
    model = model or tiny.classifier(True)
    hooks = [dict(type='mmsnn.FiniteHook')]
    hooks += [dict(type='mmsnn.DistillHook')] * (model['type'] == 'mmsnn.Distiller')
    built = tiny.runner(model, task, tmp_path, iterations=4, custom_hooks=hooks, **kwargs)
    built.default_hooks = None
    return built


def fails(built, match: str, at: int = 2, spoilt: bool = False):
    """The training ends in iteration ``at``, with the weights of the iteration before, and says why.

    ``spoilt``: the test itself changes the weights.
    """
    state = {}

    class Keep(Hook):
        def after_train_iter(self, runner, *_, **__):
            state.update({k: v.clone() for k, v in runner.model.named_parameters()})

    built.register_hook(Keep())
    with pytest.raises(NonFiniteError, match=match) as error:
        built.train()
    assert f'iteration {at}:' in str(error.value)
    assert built.iter == at - 1
    now = dict(built.model.named_parameters())
    assert bool(state) == (at > 1)
    assert spoilt or all(torch.equal(now[k], v) for k, v in state.items())
    assert not checkpoints(built.work_dir)
    record = torch.load(Path(built.work_dir, 'nonfinite.pth'), weights_only=True)
    assert record['iter'] == at - 1 and record['seed'] == 0 and record['reason'] in str(error.value)


def spoil(built, where, value=float('nan'), at: int = 2):
    """Calls ``where(model, value)`` before iteration ``at``."""

    def before(runner, batch_idx, data_batch=None):
        if batch_idx + 1 == at:
            where(runner.model, value)

    hook = next(h for h in built.hooks if type(h).__name__ == 'RuntimeInfoHook')
    then = hook.before_train_iter
    hook.before_train_iter = lambda *args, **kwargs: (before(*args, **kwargs), then(*args, **kwargs))
    return built


@pytest.mark.parametrize('value, said', [(float('nan'), 'NaN'), (float('inf'), 'infinity')])
def test_pixel(tmp_path, value, said):
    built = runner(tmp_path)
    data = built._train_dataloader['dataset']
    data.images = data.images.float()
    data.images[2, 0, 5, 5] = value
    fails(built, f'the data: inputs.0 holds {said}')


def test_box(tmp_path, monkeypatch):
    sample = tiny.Noise.sample

    def bad(self, i):
        found = sample(self, i)
        if i == 2:
            found.gt_instances.bboxes[0, 1] = float('nan')
        return found

    monkeypatch.setattr(tiny.Noise, 'sample', bad)
    fails(runner(tmp_path, tiny.detector(True), 'mmdet'), r'the data: data_samples.0.*bboxes holds NaN')


@pytest.mark.parametrize('value, said', [(float('nan'), 'NaN'), (float('inf'), 'infinity')])
def test_loss_term(tmp_path, value, said):
    def where(model, value):
        loss = model.head.loss
        model.head.loss = lambda *args, **kwargs: {k: v * value for k, v in loss(*args, **kwargs).items()}

    fails(spoil(runner(tmp_path), where, value), f'loss is {said}')


def test_gradient(tmp_path):
    def where(model, value):
        model.backbone.layer3[0].conv1.weight.register_hook(lambda grad: grad * value)

    fails(spoil(runner(tmp_path), where), 'the gradient of backbone.layer3.0.conv1.weight holds NaN')


def test_weight_that_a_neuron_hides(tmp_path):
    """A neuron given NaN does not fire, and so the loss is finite: the gradient is not."""

    def where(model, value):
        model.backbone.layer2[0].conv1.weight.data[0] = value

    fails(spoil(runner(tmp_path), where), 'the weight backbone.layer2.0.conv1.weight holds NaN', spoilt=True)


def test_module_is_named(tmp_path):
    def where(model, value):
        model.head.fc.weight.data[0] = value

    said = r'loss is NaN; the output of head.fc \(Linear\) is the first that holds NaN'
    fails(spoil(runner(tmp_path), where), said, spoilt=True)


def test_teacher_feature(tmp_path):
    def where(model, value):
        model.teacher.model.backbone.layer3[0].conv1.weight.data[0] = value

    built = spoil(runner(tmp_path, student_and_teacher()), where)
    fails(built, r'loss_feature is NaN; the output of teacher.backbone.layer3.0.conv1')


@pytest.mark.parametrize('wrapper', ['mmsnn.CPUAmpOptimWrapper', 'ScaledOnCPU'])
@pytest.mark.parametrize(
    'place, said',
    [
        ('teacher', 'loss_feature is NaN; the output of teacher.backbone.layer3.0.conv1'),
        ('loss', 'loss is NaN'),
        ('weight', 'the weight backbone.layer2.0.conv1.weight holds NaN'),
    ],
)
def test_mixed_precision(tmp_path, wrapper, place, said):
    """A loss scaler skips the step of a loss that is NaN, and would go on."""

    def where(model, value):
        if place == 'teacher':
            model.teacher.model.backbone.layer3[0].conv1.weight.data[0] = value
        elif place == 'weight':
            model.student.backbone.layer2[0].conv1.weight.data[0] = value
        else:
            loss = model.student.head.loss
            model.student.head.loss = lambda *args, **kwargs: {k: v * value for k, v in loss(*args, **kwargs).items()}

    built = spoil(runner(tmp_path, student_and_teacher()), where)
    built.optim_wrapper = dict(type=wrapper, optimizer=dict(type='SGD', lr=0.01))
    fails(built, said, spoilt=place == 'weight')


def test_weight_of_a_loss(tmp_path):
    model = student_and_teacher()
    model['losses']['loss_feature']['weight'] = float('inf')
    fails(runner(tmp_path, model), 'loss_feature is', at=1)


def test_learning_rate(tmp_path):
    def where(model, value):
        for parameter in model.parameters():
            parameter.data.mul_(1e30)

    fails(spoil(runner(tmp_path), where), 'loss is|the gradient of', spoilt=True)


@pytest.mark.parametrize('skipped, ends', [(4, False), (5, True)])
def test_steps_that_loss_scaling_skips(tmp_path, skipped, ends):
    """Gradients that overflow leave the loss finite; so many skipped steps in a row end the training, not fewer."""

    class Scaler:
        scale = 2.0**16

        def get_scale(self):
            return self.scale

    built = runner(tmp_path)
    hook = next(h for h in built.hooks if type(h).__name__ == 'FiniteHook')
    hook.runner = SimpleNamespace(iter=0, epoch=0, seed=0, work_dir=str(tmp_path))
    hook.most_skipped, hook.model = 4, built.model
    hook.scalers, hook.scales = [Scaler()], [Scaler.scale]

    def iterations(count, factor):
        for _ in range(count):
            hook.scalers[0].scale *= factor
            hook.stepped = factor == 1
            hook.after_train_iter(built, 0)
            # gradients are accumulated
            hook.after_train_iter(built, 0)

    iterations(3, 0.5)
    # a step that was made
    iterations(1, 1)
    with pytest.raises(NonFiniteError, match='5 steps in a row') if ends else nullcontext():
        iterations(skipped, 0.5)


def test_files(tmp_path):
    """What is not finite is neither saved nor loaded."""
    built = runner(tmp_path)
    finite = next(h for h in built.hooks if type(h).__name__ == 'FiniteHook')
    bad = dict(state_dict={'a': torch.ones(2), 'b.c': torch.tensor([1.0, float('nan')])})
    with pytest.raises(NonFiniteError, match='b.c is not finite: the checkpoint is not written'):
        finite.before_save_checkpoint(built, bad)
    with pytest.raises(NonFiniteError, match='holds NaN or infinity in b.c'):
        finite.after_load_checkpoint(built, bad)


def test_a_sound_training_is_not_touched(tmp_path):
    plain = tiny.runner(tiny.classifier(True), 'mmpretrain', tmp_path / 'plain', iterations=4)
    plain.train()
    watched = runner(tmp_path / 'watched')
    watched.train()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, watched.model.state_dict()[name]), name
