"""Every config: short, complete, and good for one training step."""

import copy
import functools
import math
import os
import re
from pathlib import Path

import mmpretrain
import pytest
import torch
import yaml
from helpers import build_model, noise_batch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope

from mmsnn.distill import Distiller, Progress, Schedule, transfer_weights
from mmsnn.layers import get_time_steps

REPO = Path(__file__).parents[2]
CONFIGS = REPO / 'configs'
FOLDERS = ('ann', 'spiking', 'sakd', 'bkd', 'lasnn', 'tssd', 'affine', 'tet', 'step_kd', 'low_rate')
# by a teacher network
TAUGHT = ('sakd', 'bkd', 'lasnn', 'affine', 'step_kd')
FILES = [file for folder in FOLDERS for file in sorted((CONFIGS / folder).glob('*.py'))]
# whose teachers are of another architecture
UNLIKE = 'spikingformer', 'spiking_r18_cifar10_t1', 'spiking_vgg9_cifar10_small', 'spikformer_2-128'
VIT = 'configs/vision_transformer/metafile.yml'
SMALL = 'spiking_r18_cifar10_small', 'retinanet_sew18_bccd', 'fcn_sew18_camvid'
# never equal to T, which would hide errors in folding
BATCH = 3
BASES = sorted((CONFIGS / '_base_').rglob('*.py'))


def name(file):
    return f'{file.parent.name}/{file.stem}'


@functools.cache
def read(file):
    return Config.fromfile(file)


def load(file):
    """The config; ``mmsnn::`` resolves without an installation, and mixed precision, which wants a GPU, is off."""
    cfg = copy.deepcopy(read(file))
    teacher = cfg.model.get('teacher')
    if isinstance(teacher, str):
        assert teacher.startswith('mmsnn::')
        cfg.model.teacher = str(CONFIGS / teacher.removeprefix('mmsnn::'))
    if cfg.optim_wrapper.get('type') == 'AmpOptimWrapper':
        cfg.optim_wrapper.type = 'OptimWrapper'
    return cfg


def check_transfer(model):
    """Level 1 finds everything in the teacher, and uses all of it."""
    report = transfer_weights(model.teacher.model, model.student, verbose=False)
    left = [*report.missing, *report.mismatched]
    assert not [key for key in left if key.startswith('backbone.')]
    assert len(report.matched) >= 0.9 * (len(report.matched) + len(left))
    assert not report.unused


@pytest.mark.parametrize('file', FILES, ids=name)
def test_builds_and_trains(file):
    assert len(file.read_text().splitlines()) < 60
    cfg = load(file)
    size = 32 if 'cifar' in file.stem or 'vgg' in file.stem else 64
    if 'retinanet_meta' in file.stem:
        size = 160  # on noise of fewer tokens its attention is silent, and gradients explode in the norms behind it
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = build_model(cfg, size)
        distilled = isinstance(model, Distiller)
        assert distilled == (file.parent.name not in ('ann', 'spiking'))
        assert (get_time_steps(model) > 1) == (file.parent.name != 'ann' and '_t1_' not in file.name)
        assert get_time_steps(model) != BATCH
        if distilled and model.teacher is not None and not file.stem.startswith(UNLIKE):
            check_transfer(model)

        wrapper = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper))
        schedulers = cfg.param_scheduler if isinstance(cfg.param_scheduler, list) else [cfg.param_scheduler]
        for scheduler in schedulers:
            scheduler = {k: v for k, v in scheduler.items() if k != 'convert_to_iter_based'}
            PARAM_SCHEDULERS.build(dict(scheduler, optimizer=wrapper))
        first = next(p for p in model.backbone.parameters() if p.requires_grad)
        before = first.clone()
        wrapper.zero_grad = lambda: None
        model.train()
        losses = model.train_step(noise_batch(model, BATCH, size), wrapper)
    assert all(math.isfinite(value) for value in losses.values()), losses
    assert not distilled or set(cfg.model.losses) < set(losses)
    # the gradient reaches the first layer, and the optimizer uses it
    assert first.grad.any() and not torch.equal(before, first)
    assert all(value.isfinite().all() for value in model.state_dict().values())


@pytest.mark.parametrize('file', [*FILES, *BASES], ids=lambda file: file.relative_to(CONFIGS).as_posix())
def test_inherited_by_package_name(file, tmp_path):
    child = tmp_path / 'child.py'
    child.write_text(f"_base_ = 'mmsnn::{file.relative_to(CONFIGS).as_posix()}'")
    assert Config.fromfile(child).to_dict() == read(file).to_dict()


COMPOSED = """
_base_ = ['mmsnn::ann/{ann}.py', 'mmsnn::_base_/neurons/sakd.py', 'mmsnn::_base_/distill/{method}.py']
student = dict(_base_.model, backbone=dict(_base_.model.backbone, type='mmsnn.{backbone}, T=2, neuron=_base_.neuron))
model = dict(_delete_=True, type='mmsnn.Distiller', student=student, teacher='mmsnn::ann/{ann}.py', **_base_.distill)
"""


@pytest.mark.parametrize(
    'ann, method, backbone',
    [
        ('r18_cifar10_small', 'sakd_cifar', "SpikingResNet', stem='cifar'"),
        ('retinanet_r18_bccd', 'sakd_dense', "SEWResNet'"),
        ('fcn_r18_camvid', 'bkd_dense', "SEWResNet'"),
    ],
)
def test_composed_of_bases_by_package_name(ann, method, backbone, tmp_path):
    """As a user does outside of the clone: variables of bases become arguments."""
    file = tmp_path / 'mine.py'
    file.write_text(COMPOSED.format(ann=ann, method=method, backbone=backbone))
    cfg = Config.fromfile(file)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = build_model(cfg)
        losses = model.train().train_step(noise_batch(model, BATCH), build_optim_wrapper(model, cfg.optim_wrapper))
    assert set(cfg.distill.losses) <= set(losses) and losses['loss'].isfinite()


@pytest.mark.parametrize('file', [f for f in FILES if f.parent.name in TAUGHT], ids=name)
def test_student_is_the_undistilled_config(file):
    cfg, plain = read(file), read(CONFIGS / 'spiking' / file.name)
    assert cfg.model.student == plain.model
    rest = [
        {k: v for k, v in config.items() if k not in ('model', 'distill', 'custom_hooks')} for config in (cfg, plain)
    ]
    if file.parent.name == 'sakd' and file.stem in ('spiking_r20_cifar10', 'spiking_r20_cifar100'):
        # both levels together need it, no other student
        assert rest[0]['optim_wrapper'].pop('clip_grad') == dict(max_norm=2)
    assert rest[0] == rest[1]
    hook = dict(type='mmsnn.DistillHook')
    assert [h for h in cfg.get('custom_hooks', []) if h != hook] == plain.get('custom_hooks', [])


@pytest.mark.parametrize('file', [f for f in FILES if f.parent.name == 'tssd'], ids=name)
def test_self_distillation_adds_steps_and_no_teacher(file):
    cfg, plain = read(file), read(CONFIGS / 'spiking' / file.name)
    assert 'teacher' not in cfg.model
    assert cfg.model.student.backbone == dict(plain.model.backbone, T=2 * plain.model.backbone.T)
    assert cfg.model.short_T == plain.model.backbone.T
    assert {**cfg.model.student, 'backbone': 0} == {**plain.model, 'backbone': 0}


@pytest.mark.parametrize('file', [f for f in FILES if f.parent.name in TAUGHT], ids=name)
def test_teacher_checkpoint_is_what_the_teacher_writes(file):
    model = read(file).model
    teacher = CONFIGS / model.teacher.removeprefix('mmsnn::')
    length = read(teacher).train_cfg
    last = f'iter_{length.max_iters}' if 'max_iters' in length else f'epoch_{length.max_epochs}'
    backbone = read(teacher).model.backbone
    if 'depth' in backbone:
        published = f'torchvision://resnet{backbone.depth}'
    else:
        models = yaml.safe_load((Path(mmpretrain.__file__).parent / '.mim' / VIT).read_text())['Models']
        published = next(m['Weights'] for m in models if m['Name'] == 'vit-base-p16_32xb128-mae_in1k')
        assert 'vit-base-p16_32xb128-mae_in1k' in teacher.read_text() or teacher.stem != 'vit_b_imagenet'
    given = {'r20_cifar10': 'resnet20-12fca82f.th', 'r56_cifar10': 'resnet56-4bfd9763.th'}.get(teacher.stem)
    if given:
        expected = (str(Path(os.environ.get('MMSNN_DATA_ROOT', '../shared/data'), 'cifar_resnets', given)),)
    else:
        expected = published, f'work_dirs/{teacher.stem}/{last}.pth'
    assert model.teacher_checkpoint in expected


# method files that no config here is made of, with a config they can be put into
MORE = {
    **dict.fromkeys(
        ['affine_membrane', 'lasnn_membrane', 'kdsnn', 'enof', 'etc', 'tks', 'strong_weak', 'seal'], SMALL[0]
    ),
    **dict.fromkeys(['fpn_pkd', 'fpn_fgd', 'fpn_mgd', 'dense_boxes', 'sakd_features'], SMALL[1]),
    'cwd_seg': SMALL[2],
}


@pytest.mark.parametrize('method', MORE)
def test_more_methods(method):
    cfg, size = load(CONFIGS / f'affine/{MORE[method]}.py'), 32 if 'cifar' in MORE[method] else 64
    distill = Config.fromfile(CONFIGS / f'_base_/distill/{method}.py').distill
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        del cfg.model['losses']
        cfg.model.update(distill)
        model = build_model(cfg, size)
        model.progress = Progress(max_epochs=5)
        assert all(tap.potential == ('membrane' in method) for term in model.terms for tap in term.student)
        model.train()
        losses = model.train_step(noise_batch(model, BATCH, size), build_optim_wrapper(model, cfg.optim_wrapper))
    assert math.isfinite(losses['loss']) and all(losses[name] > 0 for name in distill.losses)


def test_every_method_file_is_tried():
    used = {base.stem for file in FILES for base in bases(file) if base.parent.name == 'distill'}
    used.add('sakd_imagenet_released')  # by the test below
    assert {f.stem for f in (CONFIGS / '_base_/distill').glob('*.py')} == used | set(MORE)


def bases(file):
    """All files that a config of this repository is made of."""
    names = re.findall(r"'(\.[./\w-]+\.py)'", file.read_text().partition('model =')[0].partition('distill =')[0])
    found = {(file.parent / name).resolve() for name in names}
    return found | {base for f in found for base in bases(f)}


def test_released_schedule():
    weights = {}
    for method in ('sakd_imagenet', 'sakd_imagenet_released'):
        cfg = Config.fromfile(CONFIGS / f'_base_/distill/{method}.py')
        assert list(cfg) == ['distill']
        weights[method] = Schedule.of(cfg.distill.losses.loss_feature.weight.to_dict())
    paper, released = weights.values()
    assert [paper(Progress(epoch=e, iter_in_epoch=500)) for e in (0, 9, 10, 119)] == [10, 10, 0.01, 0.01]
    assert [released(Progress(epoch=50, iter_in_epoch=i)) for i in (0, 10, 11, 999)] == [10, 10, 0.01, 0.01]


def test_the_page_of_results_and_the_metafiles_agree():
    """What RESULTS.md names is there, and a figure that it compares with a published one is the metafile's."""
    text = (CONFIGS / 'RESULTS.md').read_text()
    for path in re.findall(r'\b((?:configs|tools|tests)/[\w/]+\.py)', text):
        assert (REPO / path).is_file(), path
    models = [m for f in FOLDERS for m in yaml.safe_load((CONFIGS / f / 'metafile.yml').read_text())['Models']]
    teacher = next(model for model in models if model['Name'] == 'ann_r20_cifar10')
    row = next(line for line in text.splitlines() if 'the given teacher |' in line)
    assert [cell.strip() for cell in row.split('|')][5] == str(teacher['Results'][0]['Metrics']['Top 1 Accuracy'])


@pytest.mark.parametrize('folder', FOLDERS)
def test_metafile_lists_every_config(folder):
    metafile = f'configs/{folder}/metafile.yml'
    assert metafile in yaml.safe_load((REPO / 'model-index.yml').read_text())['Import']
    content = yaml.safe_load((REPO / metafile).read_text())
    listed = [model['Config'] for model in content['Models']]
    assert sorted(listed) == sorted(f'configs/{folder}/{f.name}' for f in FILES if f.parent.name == folder)
    assert {model['In Collection'] for model in content['Models']} == {c['Name'] for c in content['Collections']}
    assert all(model['Name'] == f'{folder}_{Path(model["Config"]).stem}' for model in content['Models'])


@pytest.mark.parametrize(
    'file', [f for f in FILES if f.stem.startswith(('fcn', 'sem_fpn', 'deeplab', 'spike_sem'))], ids=name
)
def test_padding_is_no_class(file):
    """The value that labels are padded with is the one that the loss leaves out."""
    model = read(file).model
    model = model.get('student', model)
    preprocessor = model.get('data_preprocessor') or read(file).data_preprocessor
    assert preprocessor.seg_pad_val == model.decode_head.get('ignore_index', 255)
