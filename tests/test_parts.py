"""What cannot be built from a config is told with its key, and other errors stay as they are."""

import argparse

import mmengine.runner
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATA_SAMPLERS, DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS, DefaultScope
from torch import nn

from mmsnn.engine.options import add_cfg_options
from mmsnn.parts import explain, parts_named


def whole(**parts):
    """A config, whose parts a case replaces."""
    return Config(
        dict(
            dict(
                default_scope='mmpretrain',
                model=dict(type='ImageClassifier', backbone=dict(type='mmsnn.SEWResNet', depth=18)),
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1), clip_grad=dict(max_norm=1.0)),
                train_dataloader=dict(
                    batch_size=2,
                    sampler=dict(type='DefaultSampler', shuffle=True),
                    dataset=dict(
                        type='CustomDataset', data_root='x', lazy_init=True, pipeline=[dict(type='PackInputs')]
                    ),
                ),
                val_evaluator=[dict(type='Accuracy', topk=(1,))],
                custom_hooks=[dict(type='EMAHook', momentum=0.01)],
            ),
            **parts,
        )
    )


def build(cfg):
    """Build all parts of a config as a runner does, and use the limit of the gradients."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        MODELS.build(cfg.model)
        layer = nn.Linear(2, 2)
        wrapper = build_optim_wrapper(layer, cfg.optim_wrapper)
        wrapper.update_params(layer.weight.sum())
        for step in cfg.train_dataloader.dataset.pipeline:
            TRANSFORMS.build(step)
        for metric in cfg.val_evaluator:
            METRICS.build(metric)
        for hook in cfg.custom_hooks:
            HOOKS.build(hook)
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        DATA_SAMPLERS.build(cfg.train_dataloader.sampler, default_args=dict(dataset=dataset))


@pytest.mark.parametrize(
    'changes, error, said',
    [
        ({'model.backbone.type': 'SEWResNet'}, ValueError, ['model.backbone.type', 'did you mean mmsnn.SEWResNet?']),
        ({'model.backbone.type': 'mmsnn.SEWResnet'}, ValueError, ['model.backbone.type', 'did you mean mmsnn.SEWR']),
        ({'model.backbone.type': 'Nothing'}, ValueError, ['model.backbone.type', 'custom_imports']),
        ({'optim_wrapper.optimizer.type': 'SDG'}, ValueError, ['optim_wrapper.optimizer.type', 'did you mean SGD?']),
        ({'optim_wrapper.optimizer.lrr': 1}, TypeError, ['optim_wrapper.optimizer.lrr: SGD has', 'did you mean lr?']),
        ({'optim_wrapper.clip_grad.max_nrm': 1}, TypeError, ['optim_wrapper.clip_grad.max_nrm: ']),
        ({'train_dataloader.sampler.shufle': True}, TypeError, ['train_dataloader.sampler.shufle', 'mean shuffle?']),
        # taken by a class that the dataset's hands its arguments on to
        ({'train_dataloader.dataset.pipline': []}, TypeError, ['train_dataloader.dataset.pipline', 'mean pipeline?']),
        ({'train_dataloader.dataset.pipeline.0.type': 'PackInput'}, ValueError, ['pipeline.0.type', 'PackInputs?']),
        ({'val_evaluator.0.tpk': 1}, TypeError, ['val_evaluator.0.tpk: Accuracy', 'did you mean topk?']),
        ({'custom_hooks.0.type': 'EMAHok'}, ValueError, ['custom_hooks.0.type', 'did you mean EMAHook?']),
        ({'val_evaluator.0.quite_other': 1}, TypeError, ['val_evaluator.0.quite_other: Accuracy', 'it takes collect']),
        ({'custom_hooks.0.type': 'TimeStepKD'}, ValueError, ['custom_hooks.0.type']),
        ({'custom_hooks': [dict(type='mmpretrain.SwitchRecipeHook')]}, TypeError, ['custom_hooks.0', 'needs schedule']),
        # what libraries refuse
        ({'model.backbone.norm_cfg': dict(type='BNN')}, ValueError, ['model.backbone.norm_cfg.type', 'mean BN?']),
        ({'model.head': dict(type='LinearClsHead', num_classes=0, in_channels=8)}, ValueError, ['model.head: num_c']),
        ({'optim_wrapper.optimizer.lr': -1}, ValueError, ['optim_wrapper.optimizer: Invalid learning rate: -1 (--v']),
        (
            {'train_dataloader.dataset.pipeline': [dict(type='RandomCrop', crop_size=-3)]},
            ValueError,
            ['train_dataloader.dataset.pipeline.0: it does not fulfil: assert crop_size > 0 (AssertionError;'],
        ),
        ({'optim_wrapper.paramwise_cfg': dict(norm_decay_mult=0.0)}, ValueError, ['optim_wrapper: base_wd should']),
        ({'model.backbone.type': 5}, ValueError, ['model.backbone: type must be a str']),
        # and what ours do, with the whole of their keys
        ({'model.backbone.T': 0}, ValueError, ['model.backbone.T must be at least 1']),
        ({'model.backbone.neuron': dict(type='LIF', tau=0.2)}, ValueError, ['model.backbone: tau must be at']),
    ],
    ids=str,
)
def test_the_key_is_named(changes, error, said):
    cfg = whole()
    cfg.merge_from_dict(changes)
    with pytest.raises(error) as raised, parts_named(cfg):
        build(cfg)
    assert str(raised.value).startswith(said[0]) or said[0].startswith('pipeline'), raised.value
    assert all(part in str(raised.value) for part in said), raised.value
    assert raised.value.__cause__ is not None


@pytest.mark.parametrize('problem', [KeyError('topk'), TypeError("f() got an unexpected keyword argument 'topk'")])
def test_other_errors_stay(problem):
    """Also those of a model's own code that happen to name a key of the config."""
    with pytest.raises(type(problem)) as raised, parts_named(whole()):
        raise problem
    assert raised.value is problem
    assert explain(problem, whole()) is None


@HOOKS.register_module()
class NeedsName:
    def __init__(self, name):
        self.name = name.lower()


@HOOKS.register_module()
class HasName(NeedsName):
    def __init__(self):
        super().__init__('name')


def test_the_one_that_lacks_something_is_named():
    """And not another of its class, which gives itself what the former lacks."""
    cfg = whole(custom_hooks=[dict(type='HasName'), dict(type='NeedsName')])
    with pytest.raises(TypeError, match=r'^custom_hooks\.1: NeedsName needs name$'), parts_named(cfg):
        build(cfg)


def test_an_error_in_a_users_own_class_keeps_its_traceback():
    cfg = whole(custom_hooks=[dict(type='NeedsName', name=3)])
    with pytest.raises(AttributeError, match='lower') as raised, parts_named(cfg):
        build(cfg)
    assert raised.value.__notes__ == ['This arose while custom_hooks.0 was built.']


def test_a_hook_that_builds_something_before_the_training():
    cfg = whole(custom_hooks=[dict(type='EMAHook', momentum=7)])

    class Runner:
        """What calls hooks in mmengine, with one hook."""

        call_hook = mmengine.runner.Runner.call_hook
        model = nn.Linear(2, 2)
        _hooks = [HOOKS.build(cfg.custom_hooks[0])]

    with pytest.raises(ValueError, match=r'^custom_hooks\.0: momentum must be in range'), parts_named(cfg):
        Runner().call_hook('before_run')


def test_an_error_of_the_forward_pass_names_its_layer():
    net = nn.Sequential(nn.Flatten(), nn.Sequential(nn.ReLU(), nn.Linear(3, 10)))
    with pytest.raises(RuntimeError, match='shapes') as raised, parts_named(whole()):
        net(torch.ones(4, 64))
    (note,) = raised.value.__notes__
    layer = 'Linear(in_features=3, out_features=10, bias=True)'
    assert note == f'This arose in model.1.1, {layer}, given a tensor of shape (4, 64).'


@pytest.mark.parametrize(
    'backbone, said',
    [
        ("dict(type='ResNett', depth=18)", "model.backbone.type: 'ResNett' is not in the registry"),
        ("dict(type='ResNet', depth=19)", 'model.backbone: invalid depth 19'),
        ("dict(type='mmsnn.SEWResNet', depth=18, T=0)", 'model.backbone.T must be at least 1'),
    ],
)
def test_a_teachers_own_file_is_named(tmp_path, backbone, said):
    file = tmp_path / 'teacher.py'
    file.write_text(f"default_scope = 'mmpretrain'\nmodel = dict(type='ImageClassifier', backbone={backbone})")
    student = dict(type='mmpretrain.ImageClassifier', backbone=dict(type='ResNet', depth=18))
    cfg = whole(model=dict(type='mmsnn.Distiller', student=student, teacher=str(file), transfer=True))
    with pytest.raises(ValueError) as raised, parts_named(cfg):
        build(cfg)
    assert str(raised.value).startswith(f"model.teacher='{file}': {said}"), raised.value


def test_options_without_a_value(capsys):
    parser = argparse.ArgumentParser()
    add_cfg_options(parser)
    for bad in ('model.backbone.T', '=3'):
        with pytest.raises(SystemExit):
            parser.parse_args(['--cfg-options', 'a=1', bad])
        assert f'{bad!r} is not of the form KEY=VALUE' in capsys.readouterr().err
    assert parser.parse_args(['--cfg-options', 'a=1', 'b=x=y']).cfg_options == {'a': 1, 'b': 'x=y'}
