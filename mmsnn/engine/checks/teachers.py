"""Checks of the teachers of a distillation config: their configs, weights and classes."""

from collections.abc import Iterator, Mapping

from mmengine.config import Config
from mmengine.hub import get_config

from mmsnn.building import type_name

from .data import check_path
from .findings import Finding, error, note
from .heads import find_heads, student_config


def check_teachers(cfg: Mapping) -> Iterator[Finding]:
    """Findings about the teachers of a Distiller; none for other models."""
    model = cfg.get('model') or {}
    if type_name(model) != 'Distiller':
        return
    named = {}
    if model.get('teacher') is not None:
        named['model.teacher'] = model['teacher'], 'model.teacher_checkpoint', model.get('teacher_checkpoint')
    for name, one in (model.get('teachers') or {}).items():
        key = f'model.teachers.{name}'
        named[f'{key}.config'] = one.get('config'), f'{key}.checkpoint', one.get('checkpoint')
    own = find_heads(student_config(cfg)[1], 'model.student', cfg.get('default_scope'))
    for key, (config, where, checkpoint) in named.items():
        scope = cfg.get('default_scope')
        if isinstance(config, str):
            try:
                whole = get_config(config) if '::' in config else Config.fromfile(config)
            except Exception as problem:
                yield error(key, f'{config!r} cannot be read: {problem}')
                continue
            scope, config = whole.get('default_scope'), whole.model
        for finding in check_path(where, checkpoint, 'file'):
            text = f'{finding.text}. Train the teacher first, with its config in configs/ann'
            yield error(where, text, FileNotFoundError)
        heads = find_heads(config, key, scope) if isinstance(config, Mapping) else []
        if heads and own and heads[0].num_classes != own[0].num_classes:
            text = f'{heads[0].num_classes} classes, and the student ({own[0].key}.num_classes) {own[0].num_classes}: '
            yield note(key, f'{text}losses that compare logits refuse this, losses on features do not')
