"""Checks that report bad input before the first iteration, with its config key."""

import logging
import os
import os.path as osp
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from mmengine.device import get_device

from mmsnn.building import type_name

from . import coco
from .annotations import Reader
from .coco import check_coco
from .data import (
    Data,
    check_class_names,
    check_formats,
    check_path,
    check_paths,
    check_same_classes,
    evaluators,
    gather,
    is_local,
)
from .files import check_files
from .findings import ERROR, NOTE, UNCHECKED, WARNING, Finding, error, refuse, unchecked, warning
from .folders import check_folders, check_list, is_list
from .heads import Head, check_heads, find_heads, reads_text, student_config
from .labels import check_labels, is_segmentation
from .numbers import check_numbers
from .teachers import check_teachers

__all__ = [
    'ERROR',
    'NOTE',
    'UNCHECKED',
    'WARNING',
    'Finding',
    'Reader',
    'check_coco',
    'check_config',
    'check_data',
    'check_files',
    'log',
    'refuse',
]

PARTS = ('train', 'val', 'test')


def check_data(cfg: Mapping, parts: tuple[str, ...] = PARTS) -> list[Finding]:
    """Refuse a config whose data, classes and heads do not fit each other; return the other findings.

    If there are several processes on a machine, only one of them reads the contents of files.

    Args:
        cfg: a whole config.
        parts: which of ``train``, ``val`` and ``test`` to check.

    Raises:
        FileNotFoundError: a data root, an annotation file or a folder of images is missing.
        ValueError: the data cannot be used for training or testing. Both messages list all errors, one per line, with
            the config's key, the file and the remedy.
    """
    local_rank = os.environ.get('LOCAL_RANK', os.environ.get('SLURM_LOCALID', '0'))
    findings = list(check_config(cfg, parts, contents=local_rank == '0'))
    refuse(findings)
    return findings


def log(findings: list[Finding], logger: logging.Logger) -> None:
    """Write the warnings and notes of `check_data` into a log."""
    for finding in findings:
        if finding.level == WARNING:
            logger.warning(str(finding))
        # Notes on heads that fit are left out.
        elif finding.level == NOTE and ('.dataset' in finding.key or finding.key.startswith('model.teacher')):
            logger.info(str(finding))


def check_config(
    cfg: Mapping, parts: tuple[str, ...] = PARTS, contents: bool = True, every: bool = False
) -> Iterator[Finding]:
    """All findings that need no building of models or datasets.

    Args:
        cfg: a whole config.
        parts: which of ``train``, ``val`` and ``test`` to check.
        contents: whether to read annotations; otherwise only the existence of files is checked.
        every: whether to read all label images of segmentation, and not a sample.
    """
    data = gather(cfg, parts)
    key, model = student_config(cfg)
    heads = [] if reads_text(model) else find_heads(model, key, cfg.get('default_scope'))
    try:
        yield from _safely(check_numbers, 'train_cfg', cfg)
        for one in data:
            yield from _safely(_check_dataset, one.key, one, cfg, heads, contents, every)
        for part in parts:
            for key, metric in evaluators(cfg, part):
                yield from _safely(_check_metric, key, key, metric, [d for d in data if d.part == part], contents)
        if not reads_text(model):
            plain = [one for one in data if 'BaseVideoDataset' not in one.bases]
            yield from _safely(check_same_classes, 'metainfo', plain)
        yield from _safely(check_heads, 'model', cfg, heads, data)
        if 'train' in parts:
            yield from _safely(check_teachers, 'model.teacher', cfg)
            yield from check_amp(cfg)
            yield from check_saving(cfg)
    finally:
        coco.forget()


def check_amp(cfg: Mapping) -> Iterator[Finding]:
    """An error if ``cfg`` asks for a mixed precision that the device does not have."""
    kind, on_cpu = type_name(cfg.get('optim_wrapper') or {}), get_device() == 'cpu'
    if kind == 'CPUAmpOptimWrapper' and not on_cpu:
        yield error(
            'optim_wrapper.type',
            "'CPUAmpOptimWrapper' does nothing on a GPU, which would train in float32: add --amp, which takes "
            "mmengine's AmpOptimWrapper there",
        )
    if kind == 'AmpOptimWrapper' and on_cpu:
        yield error(
            'optim_wrapper.type',
            "mmengine's 'AmpOptimWrapper' needs a GPU; there is none. Add --amp to train in bfloat16 on the CPU, or "
            '--cfg-options optim_wrapper.type=OptimWrapper for float32',
        )


def check_saving(cfg: Mapping) -> Iterator[Finding]:
    """A warning if checkpoints wait for the end of an epoch, which a loop by iterations does not have."""
    loop, hooks = cfg.get('train_cfg') or {}, cfg.get('default_hooks') or {}
    # mmengine's default; None is no hook
    hook = hooks.get('checkpoint', dict(type='CheckpointHook')) or {}
    by_iterations = 'IterBased' in type_name(loop) if loop.get('type') else loop.get('by_epoch') is False
    if by_iterations and type_name(hook).endswith('CheckpointHook') and hook.get('by_epoch', True):
        yield warning(
            'default_hooks.checkpoint.by_epoch',
            'the training counts iterations and not epochs, so that its only checkpoint is that of the end: set '
            'by_epoch=False, and interval to a number of iterations',
        )


def _safely(check: Callable, key: str, *args) -> Iterator[Finding]:
    """The findings of a check; an exception in a check becomes a finding, because it must not stop a training."""
    try:
        yield from check(*args)
    except Exception as problem:
        yield unchecked(key, f'{check.__name__.strip("_")} failed: {type(problem).__name__}: {problem}')


def _check_dataset(data: Data, cfg: Mapping, heads: list[Head], contents: bool, every: bool) -> Iterator[Finding]:
    paths = list(check_paths(data))
    yield from paths
    yield from check_class_names(data)
    if any(finding.level in (ERROR, UNCHECKED) for finding in paths) or not contents:
        return
    formats = list(check_formats(data))
    yield from formats
    if formats:
        return
    if data.folders is not None:
        yield from check_folders(data)
    elif is_list(data):
        number = len(data.classes) if data.classes else heads[0].num_classes if heads else None
        yield from check_list(data, number)
    elif is_segmentation(data):
        yield from check_labels(data, heads, cfg, every)
    elif hasattr(data.cls, 'COCOAPI'):
        if 'img' not in (data.cfg.get('data_prefix') or {}) and coco_reader(data).boxes:
            yield error(f'{data.key}.data_prefix', "the folder of the images is missing: write dict(img='FOLDER/')")
        if osp.isfile(data.path('ann_file')):
            yield from check_coco(data.path('ann_file'), _evaluated(coco_reader(data), data, cfg))
    elif data.cls is not None:
        yield unchecked(data.key, f'the contents of a {type_name(data.cfg)}')


def coco_reader(data: Data) -> Reader:
    """How a dataset of mmdet's COCO family reads its annotation file."""
    base = data.bases.get('CocoDataset')
    settings = data.cfg.get('filter_cfg') or {}
    filters = not (data.argument('test_mode', False) or data.cfg.get('filter_cfg') is None)
    load = data.step('LoadAnnotations') or {}
    folder = data.path('data_prefix.img') or data.root
    reads = data.step('LoadImageFromFile') is not None and 'indices' not in data.cfg and osp.isdir(folder)
    return Reader(
        key=f'{data.key}.ann_file',
        owner=data.key,
        classes=data.classes,
        default=type_name(data.cfg) if data.are_the_types else None,
        by_name=base is not None and data.cls.load_data_list is base.load_data_list,
        boxes=base is not None and data.cls.parse_data_info is base.parse_data_info,
        annotated=data.part != 'test' and (data.part != 'train' or settings.get('filter_empty_gt', True)),
        filter_empty=bool(filters and settings.get('filter_empty_gt')),
        min_size=settings.get('min_size', 0) if filters else 0,
        masks=bool(load.get('with_mask')),
        folder=folder if reads else None,
    )


def _evaluated(reader: Reader, data: Data, cfg: Mapping) -> Reader:
    """The reader, marked as ``evaluated`` if COCO's evaluation reads the same file."""
    for _, metric in evaluators(cfg, data.part):
        path = metric.get('ann_file')
        if type_name(metric) != 'CocoMetric' or metric.get('format_only') or not isinstance(path, str):
            continue
        if osp.realpath(osp.expanduser(path)) == osp.realpath(data.path('ann_file')):
            return replace(reader, evaluated=True, masks=reader.masks or 'segm' in str(metric.get('metric')))
    return reader


def _check_metric(key: str, metric: Mapping, data: list[Data], contents: bool) -> Iterator[Finding]:
    """Findings on the annotation file of a metric: it must exist and contain the images of the dataset."""
    path = metric.get('ann_file')
    if not isinstance(path, str) or not path or not is_local(metric):
        return
    missing = list(check_path(f'{key}.ann_file', path, 'file'))
    yield from missing
    path = osp.expanduser(path)
    coco_files = len(data) == 1 and hasattr(data[0].cls, 'COCOAPI') and osp.isfile(data[0].path('ann_file'))
    if missing or not contents or not coco_files or type_name(metric) != 'CocoMetric' or metric.get('format_only'):
        return
    own = data[0].path('ann_file')
    before = coco.image_ids(own)
    yield from _check_left_out(key, data[0], before, coco.image_ids(path))
    if osp.realpath(own) == osp.realpath(path):
        return
    reader = coco_reader(data[0])
    masks = 'segm' in str(metric.get('metric'))
    yield from check_coco(
        path, replace(reader, key=f'{key}.ann_file', annotated=True, evaluated=True, masks=masks, folder=None)
    )
    unknown = before - coco.image_ids(path)
    if unknown:
        yield error(
            f'{key}.ann_file',
            f'{path} lacks {len(unknown)} of the {len(before)} images of {own} ({data[0].key}.ann_file): give both the '
            'same file',
        )


def _check_left_out(key: str, data: Data, own: set, evaluated: set) -> Iterator[Finding]:
    """A warning if a metric evaluates images that the dataset leaves out, whose objects then count as missed."""
    indices = data.cfg.get('indices')
    kept = (
        len(own) if indices is None else min(abs(indices), len(own)) if isinstance(indices, int) else len(set(indices))
    )
    if indices is not None and kept < len(own):
        yield warning(
            f'{data.key}.indices',
            f'{kept} of the {len(own)} images are read, but {key} counts the objects of all images of its ann_file: '
            'those of the others count as missed, and the figures are too low. Give both a file of these images',
        )
    elif evaluated - own:
        yield warning(
            f'{key}.ann_file',
            f'it has {len(evaluated - own)} images that {data.key}.ann_file does not have: their objects count as '
            'missed, and the figures are too low. Give both the same file',
        )
