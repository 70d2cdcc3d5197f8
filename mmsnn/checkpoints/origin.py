"""The network that a checkpoint was trained with, by the config that mmengine writes into it."""

import ast
import logging
from collections.abc import Iterator, Mapping

from mmengine.logging import print_log

from mmsnn.building import is_distiller, type_name

# Keys of a backbone or a neck that may differ at inference: they do not change what it computes, or by intention.
FREE = (
    'init_cfg', 'pretrained', 'frozen_stages', 'norm_eval', 'with_cp', 'packed_spikes', 'fused', 'out_indices', 'T',
    'drop_path_rate', 'drop_rate',
)  # fmt: skip


def mention_origin(content: object, model: Mapping | None, source: str, key: str = '') -> None:
    """Warn if the backbone or neck in a checkpoint's config is not that of ``model``, the config of a task model.

    Names and shapes do not tell an ANN from its spiking twin, or one neuron from another.
    """
    meta = content.get('meta') if isinstance(content, Mapping) else None
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    if not isinstance(text, str) or not isinstance(model, Mapping):
        return
    before, now = _network(read_text(text).get('model')), _network(model)
    lines = [
        f'model.{name}: {old} -> {new}'
        for name, old, new in differences(before, now)
        if not set(name.split('.')) & set(FREE)
    ]
    if before and lines:
        subject = f'{key}: {source}' if key else source
        shown = '; '.join(lines[:6]) + (f' and {len(lines) - 6} more' if len(lines) > 6 else '')
        text = f'{subject} was trained with another network, whose weights have the same names and shapes: {shown}'
        print_log(text, 'current', logging.WARNING)


def _network(model: object) -> dict:
    """Backbone and neck of a task model's config, with types without scopes."""
    if not isinstance(model, Mapping):
        return {}
    if is_distiller(dict(model)) or isinstance(model.get('module'), Mapping):
        return _network(model.get('student') or model.get('module'))
    return {part: _plain_types(model[part]) for part in ('backbone', 'neck') if isinstance(model.get(part), Mapping)}


def _plain_types(cfg):
    if isinstance(cfg, Mapping):
        return {k: type_name(dict(cfg)) if k == 'type' else _plain_types(v) for k, v in cfg.items()}
    return [_plain_types(v) for v in cfg] if isinstance(cfg, list | tuple) else cfg


def differences(before, now, key: str = '') -> Iterator[tuple[str, object, object]]:
    """The keys whose values differ between two configs, with both values in short."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in {**before, **now}:
            old, new = before.get(name, 'unset'), now.get(name, 'unset')
            yield from differences(old, new, f'{key}.{name}' if key else str(name))
    elif _plain(before) != _plain(now):
        yield key, _short(before), _short(now)


def _plain(value):
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def read_text(text: str) -> dict:
    """The values in the text of a config that mmengine writes into a checkpoint; nothing in it is executed."""
    try:
        lines = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError):
        return {}
    return {
        line.targets[0].id: _value(line.value)
        for line in lines
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)
    }


def _value(node: ast.expr):
    if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'dict' and not node.args:
        return {word.arg: _value(word.value) for word in node.keywords if word.arg}
    if isinstance(node, ast.Dict):
        return {_value(k): _value(v) for k, v in zip(node.keys, node.values) if k is not None}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return ast.unparse(node)
