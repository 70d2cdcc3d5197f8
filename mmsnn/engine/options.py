"""Applying ``--cfg-options`` to a config, with a warning for each key that has no effect."""

import argparse
import difflib
import importlib.util
import inspect
import logging
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.logging import print_log
from mmengine.runner import FlexibleRunner, Runner

from mmsnn.building import is_distiller
from mmsnn.parts import nodes

from .trust import check_options

# Top-level keys of a config that tools read, besides those that runners read.
READ_BY_TOOLS = {'model', 'work_dir', 'runner_type', 'tta_model', 'tta_pipeline'}
# Packages whose sources are searched for the name of a key, besides the task library and the config's imports.
READERS = 'mmengine', 'mmcv', 'mmsnn', 'torch.optim', 'torch.utils.data'


def positive(text: str) -> int:
    """The number of an option that counts something, for ``type=``: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'must be a whole number of at least 1, got {text!r}')
    return int(text)


class KeyValues(DictAction):
    """mmengine's reading of KEY=VALUE, which refuses anything else."""

    def __call__(self, parser, namespace, values, option_string=None):
        """Read the values of the option."""
        for value in values:
            if not value.partition('=')[0] or '=' not in value:
                raise argparse.ArgumentError(self, f'{value!r} is not of the form KEY=VALUE')
        super().__call__(parser, namespace, values, option_string)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--cfg-options``, which every tool that reads a config has."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValues,
        metavar='KEY=VALUE',
        help='override the config, e.g. model.backbone.T=2 or key="[(a,b),(c,d)]"; in a distillation config, '
        'model.KEY means the student unless the Distiller has this key',
    )


def apply_options(cfg: Config, options: dict) -> None:
    """Apply ``options`` (``{'model.backbone.T': 2}``) to ``cfg``, in place.

    In a distillation config, ``model.KEY`` means the student's key if the Distiller has no such argument; the log says
    so. Warnings name keys that have no effect.

    Raises:
        ValueError: an option would make code run; see `mmsnn.engine.trust`.
    """
    check_options(cfg, options)
    options = _meant_for_student(cfg, options)
    for key in options:
        reason = unread(cfg, key)
        if reason:
            print_log(f'--cfg-options {key}: {reason}', logger='current', level=logging.WARNING)
    cfg.merge_from_dict(options)


def unread(cfg: Config, key: str) -> str | None:
    """The reason why setting the dotted ``key`` in ``cfg`` would have no effect; None if it may have one.

    The first name of a key must be one that runners or tools read, because variables of a config file have no effect
    after the file has been read. A later name that the config does not have yet must occur somewhere in the sources of
    the libraries that could read it.
    """
    first, *rest = key.split('.')
    if first not in read_by_runners():
        if first in cfg:
            places = _places(cfg, first)
            where = f'its value was used in {", ".join(places)}. Set those' if places else 'set the keys that used it'
            return f'nothing reads {first}, which is only a variable of the config file: {where}'
        return f'nothing reads {first}' + _suggestion(first, {*cfg, *read_by_runners()}, '', rest)
    node, above = cfg.get(first), first
    for i, name in enumerate(rest):
        if isinstance(node, (list, tuple)) and name.isdigit() and int(name) < len(node):
            node = node[int(name)]
        elif isinstance(node, dict) and name in node:
            node = node[name]
        else:
            siblings = {str(k) for k in node} if isinstance(node, dict) else set()
            close = difflib.get_close_matches(name, siblings, 1, 0.84) if i == len(rest) - 1 else []
            misspelt = close and 'type' not in siblings and not isinstance(node[close[0]], dict)
            new = [part for part in rest[i:] if not part.isdigit()]
            unknown = next((part for part in new if not _occurs(part, cfg)), None)
            if unknown == name or (unknown is None and misspelt):
                return f'nothing reads {above}.{name}' + _suggestion(name, siblings, f'{above}.', rest[i + 1 :])
            return f'nothing reads {unknown}' if unknown else None
        above = f'{above}.{name}'
    return None


def warn_of_misspelt_names(cfg: Config) -> None:
    """Warn of top-level names of a config file that nothing reads and that are close to one that would be read.

    Files may have variables of any name, so a name counts as misspelt only if its letters are those of the other one in
    another order, or one letter is missing or too many, and if the value was used nowhere.
    """
    known = read_by_runners()
    for name in cfg.keys() - known:
        near = sorted(other for other in known if _misspelt(name, other))
        if near and not _places(cfg, name):
            text = f'{cfg.filename}: nothing reads {name}; did you mean {near[0]}?'
            print_log(text, logger='current', level=logging.WARNING)


def _misspelt(name: str, other: str) -> bool:
    if sorted(name) == sorted(other):
        return True
    short, long = sorted((name, other), key=len)
    return len(long) == len(short) + 1 and any(long[:i] + long[i + 1 :] == short for i in range(len(long)))


def _meant_for_student(cfg: Config, options: dict) -> dict:
    """``options`` in which keys that a Distiller does not have are moved to its student."""
    if not is_distiller(cfg.get('model') or {}):
        return options
    from mmsnn.distill import Distiller

    own = {'type', '_delete_', *inspect.signature(Distiller).parameters} - {'unknown'}
    # These two keys mean the student's, unless the config sets them for the Distiller.
    own -= {'data_preprocessor', 'init_cfg'} - cfg.model.keys()
    moved = {}
    for key in options:
        model, _, rest = key.partition('.')
        if model == 'model' and rest and rest.partition('.')[0] not in own:
            moved[key] = f'model.student.{rest}'
    if moved:
        pairs = ', '.join(f'{old} is read as {new}' for old, new in moved.items())
        print_log(f'--cfg-options of a distillation config mean the student: {pairs}', logger='current')
    return {moved.get(key, key): value for key, value in options.items()}


@cache
def read_by_runners() -> frozenset[str]:
    """The top-level keys of a config that a runner or a tool reads."""
    names = set(READ_BY_TOOLS)
    for runner in (Runner, FlexibleRunner):
        names |= {*inspect.signature(runner).parameters} - {'cfg'}
        # the source of the class alone takes seconds, because inspect parses its file
        source = Path(inspect.getfile(runner)).read_text(encoding='utf-8')
        names |= {*re.findall(r"\bcfg\.get\(\s*'(\w+)'", source)}
    return frozenset(names)


def _suggestion(name: str, known: set[str], above: str, rest: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f'; did you mean {above}{".".join([close[0], *rest])}?' if close else ''


def _places(cfg: Config, variable: str) -> list[str]:
    """The keys in which the value of a ``variable`` of the config file was used; at most three of them."""
    value = cfg[variable]
    telling = isinstance(value, (str, list, tuple, dict)) and bool(value)
    paths = []
    for key in read_by_runners() & cfg.keys():
        for path, node in [(key, cfg[key]), *nodes(cfg[key], key)]:
            begins = isinstance(value, str) and isinstance(node, str) and value and node.startswith(value)
            if (path.rpartition('.')[2] == variable and node == value) or (telling and (node == value or begins)):
                paths.append(path)
    return [*sorted(paths, key=lambda path: (path.count('.'), path))[:3], *['...'] * (len(paths) > 3)]


def _occurs(name: str, cfg: Config) -> bool:
    """Whether ``name`` is a word in the sources of the packages that may read the config."""
    imported = (cfg.get('custom_imports') or {}).get('imports') or []
    modules = {
        *READERS,
        cfg.get('default_scope') or 'mmengine',
        *([imported] if isinstance(imported, str) else imported),
    }
    word = re.compile(rf'\b{re.escape(name)}\b')
    return any(word.search(path.read_text(encoding='utf-8', errors='ignore')) for m in modules for path in _sources(m))


def _sources(module: str) -> Iterator[Path]:
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.submodule_search_locations:
        for folder in spec.submodule_search_locations:
            yield from (path for path in Path(folder).rglob('*.py') if '.mim' not in path.parts)
    elif spec is not None and spec.has_location:
        yield Path(spec.origin)
