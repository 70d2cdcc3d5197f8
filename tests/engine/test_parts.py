"""What cannot be built from a config is told with its key, and other errors stay as they are."""

import argparse

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATA_SAMPLERS, DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS, DefaultScope
from torch import nn

from mmsnn.engine.options import add_cfg_options
from mmsnn.engine.parts import explain, parts_named


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


def test_options_without_a_value(capsys):
    parser = argparse.ArgumentParser()
    add_cfg_options(parser)
    for bad in ('model.backbone.T', '=3'):
        with pytest.raises(SystemExit):
            parser.parse_args(['--cfg-options', 'a=1', bad])
        assert f'{bad!r} is not of the form KEY=VALUE' in capsys.readouterr().err
    assert parser.parse_args(['--cfg-options', 'a=1', 'b=x=y']).cfg_options == {'a': 1, 'b': 'x=y'}
