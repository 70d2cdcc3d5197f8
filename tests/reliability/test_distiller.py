"""R22: 20 steps of distillation leave the teacher, the files, the optimizer and the plain run as they should be."""

import copy

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import MODELS, DefaultScope
from tiny import classifier, detector, runner

from mmsnn.checkpoints.loading import CheckMatch
from mmsnn.checkpoints.reading import load_file
from mmsnn.distill import Distiller

STAGES = [f'backbone.layer{i}' for i in range(1, 5)]
FEATURE = dict(type='FeatureMSE', student=STAGES, teacher=STAGES, connector=dict(type='ConvBN'), weight=0.1)
TASKS = dict(
    mmpretrain=(
        classifier,
        dict(loss_feature=FEATURE, response=dict(type='LogitKL', student='head', teacher='head', tau=2.0)),
    ),
    mmdet=(
        detector,
        dict(loss_feature=FEATURE, response=dict(type='DenseResponse', student='bbox_head[0]', teacher='bbox_head[0]')),
    ),
)
# the check that the tools add lets a student's file, its averages and its connectors pass
HOOKS = [dict(type='mmsnn.DistillHook'), dict(type='EMAHook', momentum=0.1), dict(type=CheckMatch)]


class Witness(Hook):
    """Writes down what happens in every iteration."""

    def __init__(self):
        self.losses, self.optimized = [], set()

    def before_train(self, runner):
        model = runner.model
        self.teacher = None
        if isinstance(model, Distiller) and model.teacher is not None:
            self.teacher = copy.deepcopy(model.teacher.model.state_dict())
        self.optimized = {id(p) for group in runner.optim_wrapper.param_groups for p in group['params']}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append({k: v.item() for k, v in outputs.items()})


def distiller(task, **kwargs):
    make, losses = TASKS[task]
    return dict(type='mmsnn.Distiller', student=make(True), **{'teacher': make(False), 'losses': losses, **kwargs})


def train(model, task, folder, iterations=20, hooks=HOOKS, **kwargs):
    """The trained runner, what its witness saw, and the last checkpoint."""
    witness = Witness()
    run = runner(model, task, folder, iterations, custom_hooks=[*hooks, witness], **kwargs)
    run.train()
    return run, witness, load_file(folder / f'iter_{iterations}.pth')


def keys(value, path=''):
    """Every key in nested dicts, with its path."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield f'{path}/{key}'
            yield from keys(item, f'{path}/{key}')


@pytest.fixture(scope='module', params=TASKS)
def task(request):
    return request.param


@pytest.fixture(scope='module')
def distilled(task, tmp_path_factory):
    return train(distiller(task), task, tmp_path_factory.mktemp(task))


@pytest.fixture(scope='module')
def plain(task, tmp_path_factory):
    return train(TASKS[task][0](True), task, tmp_path_factory.mktemp(f'{task}_plain'), hooks=HOOKS[1:])


def test_teacher_is_bit_equal(distilled):
    run, witness, _ = distilled
    after = run.model.teacher.model.state_dict()
    assert witness.teacher and all(torch.equal(v, witness.teacher[k]) for k, v in after.items())
    assert all(p.grad is None for p in run.model.teacher.model.parameters())


def test_no_teacher_in_files(distilled):
    run, _, checkpoint = distilled
    assert not [key for key in keys(checkpoint) if 'teacher' in key]
    # nor a tensor of it under another name
    own = {v.shape: [] for v in run.model.teacher.model.state_dict().values()}
    for v in run.model.teacher.model.state_dict().values():
        own[v.shape].append(v)
    for part in ('state_dict', 'ema_state_dict', 'connectors'):
        for name, value in checkpoint[part].items():
            same = [t for t in own.get(value.shape, ()) if torch.equal(t, value) and value.unique().numel() > 1]
            assert not same, f'{part}/{name}'


def test_no_teacher_in_the_optimizer(distilled):
    run, witness, _ = distilled
    model = run.model
    assert witness.optimized == {id(p) for p in (*model.student.parameters(), *model.connectors.parameters())}
    assert witness.optimized.isdisjoint({id(p) for p in model.teacher.model.parameters()})


def test_plain_config_loads_it_strictly(task, distilled):
    run, _, checkpoint = distilled
    with DefaultScope.overwrite_default_scope(task):
        model = MODELS.build(TASKS[task][0](True))
    assert list(checkpoint['state_dict']) == list(model.state_dict())
    model.load_state_dict(checkpoint['state_dict'])
    # the hook stores the average as the model, and the model as the average
    average = next(h for h in run._hooks if type(h).__name__ == 'EMAHook').ema_model.module
    assert all(torch.equal(v, average.state_dict()[k]) for k, v in model.state_dict().items())
    stored = {k.removeprefix('module.'): v for k, v in checkpoint['ema_state_dict'].items() if k != 'steps'}
    model.load_state_dict(stored)
    assert all(torch.equal(v, run.model.student.state_dict()[k]) for k, v in model.state_dict().items())
    assert not torch.equal(stored['backbone.conv1.weight'], checkpoint['state_dict']['backbone.conv1.weight'])


def test_all_losses_reach_the_sum(task, distilled):
    _, witness, _ = distilled
    assert len(witness.losses) == 20
    own = {'loss_cls', 'loss_bbox'} if task == 'mmdet' else set()
    for losses in witness.losses:
        assert losses.keys() == {'loss', 'loss_feature', 'loss_response'} | own
        assert losses['loss_feature'] > 0 and losses['loss_response'] > 0
        if own:
            assert sum(v for k, v in losses.items() if k != 'loss') == pytest.approx(losses['loss'], rel=1e-5)
        else:
            # mmpretrain calls its own loss as the sum
            assert losses['loss'] > losses['loss_feature'] + losses['loss_response']
    assert witness.losses[-1]['loss_feature'] < witness.losses[0]['loss_feature']


@pytest.mark.parametrize('weight', [None, 0.0], ids=['no losses', 'weight 0'])
def test_without_losses_it_is_the_plain_run(task, plain, tmp_path, weight):
    """Bit for bit; with weight 0 too, because teacher and connectors draw no random numbers of the student."""
    if weight is None:
        cfg = distiller(task, losses=None, teacher=None)
    else:
        cfg = distiller(task, losses={k: {**v, 'weight': 0.0} for k, v in TASKS[task][1].items()})
    run, witness, checkpoint = train(cfg, task, tmp_path)
    expected_run, expected, expected_checkpoint = plain
    names = expected.losses[0]
    assert [{k: losses[k] for k in names} for losses in witness.losses] == expected.losses
    assert list(run.model.state_dict()) == list(expected_run.model.state_dict())
    for part in ('state_dict', 'ema_state_dict'):
        for name, value in expected_checkpoint[part].items():
            assert torch.equal(checkpoint[part][name], value), name


def test_resumes_with_its_connectors(task, distilled, tmp_path):
    """10 iterations, a new process' worth of objects, 10 more: as 20 at one go."""
    whole, witness, expected = distilled
    train(distiller(task), task, tmp_path, iterations=10)
    run, resumed, checkpoint = train(distiller(task), task, tmp_path, resume=True)
    assert resumed.losses == witness.losses[10:]
    for part in ('state_dict', 'ema_state_dict', 'connectors'):
        assert checkpoint[part].keys() == expected[part].keys() and len(expected[part])
        for name, value in expected[part].items():
            assert torch.equal(checkpoint[part][name], value), f'{part}/{name}'
    for name, value in run.model.connectors.state_dict().items():
        assert torch.equal(value, whole.model.connectors.state_dict()[name])


def test_resuming_without_connectors_is_refused(task, plain, tmp_path):
    plain_run = plain[0]
    cfg = distiller(task)
    with pytest.raises(ValueError, match='holds no connectors.*load_from'):
        train(cfg, task, tmp_path, resume=True, load_from=f'{plain_run.work_dir}/iter_20.pth')


def test_hook_belongs_to_a_distiller(tmp_path):
    with pytest.raises(TypeError, match='model is a ImageClassifier, not an mmsnn.Distiller'):
        train(classifier(True), 'mmpretrain', tmp_path)


def test_runner_refuses_without_the_hook(tmp_path):
    with pytest.raises(RuntimeError, match='trains only with its hook'):
        train(distiller('mmpretrain'), 'mmpretrain', tmp_path, hooks=[])
