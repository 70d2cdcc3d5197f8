"""Applying ``--cfg-options`` to a config, with a warning for each key that has no effect."""

import argparse
import difflib
import importlib.util
import inspect
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.logging import print_log
from mmengine.registry import Registry
from mmengine.runner import FlexibleRunner, Runner

from mmsnn import registry
from mmsnn.building import is_distiller

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


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--cfg-options``, which every tool that reads a config has."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
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


def unregistered(problem: KeyError, cfg: Config) -> ValueError | None:
    """What to say of a type that no registry knows, with its key and near names; None for another problem."""
    found = re.search(r'(\S+) is not in the (\S+) registry', str(problem))
    if found is None:
        return None
    name, registry = found[1].strip('\'"'), found[2]
    key = next((path for path, last, node in _nodes(cfg.to_dict(), '') if last == 'type' and node == name), '.type')[1:]
    ours = {f'mmsnn.{each}' for each in registered_names()}
    plain = {each.rpartition('.')[2].lower(): each for each in ours}
    bare = name.rpartition('.')[2].lower()
    close = [bare] if bare in plain else difflib.get_close_matches(bare, plain, 2, 0.8)
    hint = (
        f'did you mean {" or ".join(plain[one] for one in close)}?'
        if close
        else ("is its module imported (custom_imports), and its package named (type='mmdet.NAME')?")
    )
    return ValueError(f'{key}: {name!r} is not in the registry {registry}; {hint}')


def registered_names() -> set[str]:
    """The names of all that mmsnn registers."""
    registries = [each for each in vars(registry).values() if isinstance(each, Registry)]
    for each in registries:
        each.import_from_location()
    return {name for each in registries for name in each.module_dict}


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


def read_by_runners() -> set[str]:
    """The top-level keys of a config that a runner or a tool reads."""
    names = set(READ_BY_TOOLS)
    for runner in (Runner, FlexibleRunner):
        names |= {*inspect.signature(runner).parameters} - {'cfg'}
        names |= {*re.findall(r"\bcfg\.get\(\s*'(\w+)'", inspect.getsource(runner))}
    return names


def _suggestion(name: str, known: set[str], above: str, rest: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f'; did you mean {above}{".".join([close[0], *rest])}?' if close else ''


def _places(cfg: Config, variable: str) -> list[str]:
    """The keys in which the value of a ``variable`` of the config file was used; at most three of them."""
    value = cfg[variable]
    telling = isinstance(value, (str, list, tuple, dict)) and bool(value)
    paths = []
    for key in read_by_runners() & cfg.keys():
        for path, name, node in _nodes(cfg[key], key):
            begins = isinstance(value, str) and isinstance(node, str) and value and node.startswith(value)
            if (name == variable and node == value) or (telling and (node == value or begins)):
                paths.append(path)
    return [*sorted(paths, key=lambda path: (path.count('.'), path))[:3], *['...'] * (len(paths) > 3)]


def _nodes(node, path: str) -> Iterator[tuple[str, str, object]]:
    """Yield ``node`` and everything inside of it, outer nodes first, each with its path and its last name."""
    yield path, path.rpartition('.')[2], node
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for name, child in items:
        yield from _nodes(child, f'{path}.{name}')


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
