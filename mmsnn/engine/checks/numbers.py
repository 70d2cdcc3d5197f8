"""Text where a number belongs, as in a YAML file that says ``1e-3``, and numbers with which a loop fails late."""

import inspect
import logging
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache

import numpy as np
from torch import Tensor

from mmsnn.parts import arguments_of, classes_of, nodes

from .findings import Finding, error

LIKE_A_NUMBER = r'[-+]?\.?\d|(true|false|none)$'


def check_numbers(cfg: Mapping) -> Iterator[Finding]:
    """An error for each text given to an argument that takes numbers alone, by the annotations of its type.

    Texts that do not begin as a number does, and are no truth value, are left to those who read them. Seeds, log
    levels and intervals of validations are looked at whatever reads them.
    """
    for key, node in nodes(cfg):
        if not isinstance(node, dict) or not node.get('type'):
            continue
        texts = {name: v for name, v in node.items() if isinstance(v, str) and re.match(LIKE_A_NUMBER, v, re.I)}
        # only where there is something to find, because all packages are imported for it
        kinds = [_numeric(kind) for kind in classes_of(node['type']) if inspect.isclass(kind)] if texts else []
        for name, value in texts.items():
            # several packages may have a type of this name
            if kinds and all(name in numeric for numeric in kinds):
                yield error(f'{key}.{name}', _text_for_a_number(value))
    loop = cfg.get('train_cfg') or {}
    for name in ('max_epochs', 'max_iters', 'val_interval'):
        if isinstance(loop.get(name), str):
            yield error(f'train_cfg.{name}', _text_for_a_number(loop[name]))
    if loop.get('val_interval') == 0:
        yield error('train_cfg.val_interval', 'must be 1 or more, got 0; --no-validate trains without validation')
    seed = (cfg.get('randomness') or {}).get('seed')
    if seed is not None and not (isinstance(seed, (int, np.integer)) and 0 <= seed < 2**32):
        yield error('randomness.seed', f'must be a whole number from 0 to 2**32 - 1, got {seed!r}')
    level = cfg.get('log_level', 'INFO')
    if isinstance(level, str) and not isinstance(logging.getLevelName(level), int):
        yield error('log_level', f'must be one of DEBUG, INFO, WARNING, ERROR and CRITICAL, got {level!r}')


def _text_for_a_number(value: str) -> str:
    if value.lower() in ('true', 'false'):
        return f'must be a truth value, got the text {value!r}: write it without quotes'
    for kind in (int, float):
        with suppress(ValueError):
            return (
                f'must be a number, got the text {value!r}: write {kind(value)} (YAML reads 1e-3 as text, 1.0e-3 not)'
            )
    return f'must be a number or a truth value, got the text {value!r}'


@cache
def _numeric(kind: type) -> frozenset[str]:
    """The arguments of a class that take numbers, truth values or sequences of them, and nothing else."""
    return frozenset(name for name, hint in arguments_of(kind).items() if _is_numeric(hint))


def _is_numeric(hint) -> bool:
    if typing.get_origin(hint) in (typing.Union, types.UnionType, list, tuple, Sequence):
        members = [member for member in typing.get_args(hint) if member not in (type(None), Ellipsis)]
        return bool(members) and all(map(_is_numeric, members))
    return hint in (int, float, bool, Tensor)
