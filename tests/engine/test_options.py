"""Options reach what they name: the student of a Distiller; and a key that nothing reads is named."""

import pytest
from mmengine.config import Config

from mmsnn.engine import options
from mmsnn.engine.options import apply_options, warn_of_misspelt_names

STUDENT = dict(
    type='RetinaNet',
    backbone=dict(type='mmsnn.SEWResNet', depth=18, T=4),
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[0]),
    test_cfg=dict(max_per_img=100, nms=dict(type='nms', iou_threshold=0.5)),
)
PLAIN = dict(
    default_scope='mmdet',
    data_root='data/coco/',
    max_epochs=12,
    my_list=[3, 4],
    train_pipeline=[dict(type='LoadImageFromFile')],
    model=STUDENT,
    train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=12),
    train_dataloader=dict(
        batch_size=2,
        dataset=dict(
            type='CocoDataset',
            data_root='data/coco/',
            ann_file='data/coco/train.json',
            pipeline=[dict(type='LoadImageFromFile')],
        ),
    ),
    optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01)),
    default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
    param_scheduler=[dict(type='MultiStepLR', milestones=[8])],
)


@pytest.fixture
def said(monkeypatch):
    """What is logged."""
    lines = []
    monkeypatch.setattr(options, 'print_log', lambda line, **kwargs: lines.append(line))
    return lines


def distilled(**model):
    return Config(dict(model=dict(type='mmsnn.Distiller', student=STUDENT, teacher='mmsnn::ann/x.py', **model)))


class TestStudent:
    def test_keys_of_the_task_model_are_the_students(self, said):
        cfg = distilled()
        apply_options(cfg, {'model.backbone.T': 2, 'model.data_preprocessor.mean': [1], 'model.init_cfg': 'x'})
        assert cfg.model.student.backbone.T == 2
        assert cfg.model.student.data_preprocessor.mean == [1] and cfg.model.student.init_cfg == 'x'
        assert not {'backbone', 'data_preprocessor', 'init_cfg'} & set(cfg.model)
        assert len(said) == 1 and 'model.backbone.T is read as model.student.backbone.T' in said[0]

    def test_the_distillers_own_stay(self, said):
        cfg = distilled(data_preprocessor=dict(mean=[2]))
        apply_options(
            cfg,
            {
                'model.teacher_checkpoint': 'x.pth',
                'model.task_weight': 2,
                'model.student.backbone.T': 1,
                'model.data_preprocessor.mean': [3],
            },
        )
        assert cfg.model.teacher_checkpoint == 'x.pth' and cfg.model.task_weight == 2
        assert cfg.model.student.backbone.T == 1 and cfg.model.data_preprocessor.mean == [3]
        assert not said

    def test_a_plain_model_is_left_alone(self, said):
        cfg = Config(PLAIN)
        apply_options(cfg, {'model.backbone.T': 2})
        assert cfg.model.backbone.T == 2 and not said


class TestUnread:
    @pytest.mark.parametrize(
        'key, parts',
        [
            ('modle.backbone.T', ['nothing reads modle', 'did you mean model.backbone.T?']),
            ('lod_from', ['did you mean load_from?']),
            ('xyzzy', ['nothing reads xyzzy']),
            ('data_root', ['train_dataloader.dataset.data_root', 'train_dataloader.dataset.ann_file']),
            ('max_epochs', ['a variable', 'train_cfg.max_epochs']),
            ('my_list', ['a variable']),
            ('train_pipeline.0.type', ['train_dataloader.dataset.pipeline']),
            ('model.test_cfg.max_per_image', ['did you mean model.test_cfg.max_per_img?']),
            ('model.test_cfg.nms.iou_treshhold', ['did you mean model.test_cfg.nms.iou_threshold?']),
            ('model.backbone.dephth', ['did you mean model.backbone.depth?']),
            ('optim_wrapper.paramwise_cfg.norm_deccay_mult', ['nothing reads norm_deccay_mult']),
            ('default_hooks.checkpoint.intervall', ['did you mean default_hooks.checkpoint.interval?']),
            ('param_scheduler.0.milestonnes', ['did you mean param_scheduler.0.milestones?']),
        ],
    )
    def test_is_named(self, said, key, parts):
        apply_options(Config(PLAIN), {key: 1})
        assert len(said) == 1 and said[0].startswith(f'--cfg-options {key}: ')
        assert all(part in said[0] for part in parts), said

    @pytest.mark.parametrize(
        'key',
        [
            'model.backbone.T',
            'model.backbone.neuron.tau',
            'model.test_cfg.score_thr',
            'model.bbox_head.loss_cls.gamma',
            'train_dataloader.num_workers',
            'train_dataloader.prefetch_factor',
            'train_dataloader.dataset.data_root',
            'optim_wrapper.optimizer.fused',
            'optim_wrapper.paramwise_cfg.norm_decay_mult',
            'optim_wrapper.accumulative_counts',
            'param_scheduler.0.gamma',
            'default_hooks.checkpoint.max_keep_ckpts',
            'randomness.deterministic',
            'runner_type',
            'strategy.type',
            'sync_bn',
            'compile.backend',
            'model_wrapper_cfg.type',
            'find_unused_parameters',
            'activation_checkpointing',
            'load_from',
            'auto_scale_lr.enable',
            'env_cfg.mp_cfg.mp_start_method',
            'tta_model.type',
            'work_dir',
            'visualizer.type',
        ],
    )
    def test_what_is_read_is_not(self, said, key):
        apply_options(Config(PLAIN), {key: 1})
        assert not said


def test_misspelt_names_of_a_file(said, tmp_path):
    """Also beside the right name, which a base config has; variables may be called anything."""
    path = tmp_path / 'mine.py'
    base = Config(PLAIN).pretty_text
    path.write_text(f"{base}\nmodle = dict(backbone=dict(T=8))\nload_form = 'x.pth'\nresmue = True\nmodels = [1]\n")
    cfg = Config.fromfile(path)
    cfg.train_cfg.x = cfg.models
    warn_of_misspelt_names(cfg)
    assert sorted(said) == [
        f'{path}: nothing reads {name}; did you mean {meant}?'
        for name, meant in (('load_form', 'load_from'), ('modle', 'model'), ('resmue', 'resume'))
    ]
