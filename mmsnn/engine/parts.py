"""What libraries say of parts of a config that they cannot build, said again with the part's key and near names."""

import difflib
import inspect
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import mmengine.registry
from mmengine.config import Config
from mmengine.registry import Registry

# Functions of mmengine that pass values of a config on.
BUILDERS = 'build_from_cfg', 'build_runner_from_cfg', '_clip_grad', '__call__'


@contextmanager
def parts_named(cfg: Config) -> Iterator[None]:
    """Context in which a type that is not registered, or an argument that a type does not take, is told with its key.

    Raises:
        ValueError: a type of ``cfg`` is not registered.
        TypeError: a type of ``cfg`` does not take one of its keys, or lacks one.
    """
    try:
        yield
    except (KeyError, TypeError) as problem:
        named = explain(problem, cfg)
        if named is None:
            raise
        raise named from problem


def explain(problem: Exception, cfg: Config) -> Exception | None:
    """The error that names the key of ``cfg`` which ``problem`` is about; None for a problem of another kind."""
    said = str(problem)
    if isinstance(problem, KeyError) and (found := re.search(r'(\S+) is not in the (\S+::)?(.+?) registry', said)):
        return _unregistered(found[1].strip('\'"'), found[3], cfg)
    if not isinstance(problem, TypeError) or not _in_a_builder(problem):
        return None
    if found := re.search(r"(?:(\w+)\.)?(\w+)\(\) got an unexpected keyword argument '(\w+)'", said):
        return _unexpected(found[1], found[2], found[3], cfg)
    if found := re.search(r"(\w+)\.__init__\(\) missing \d+ required .*?: '(\w+)'", said):
        return _missing(found[1], found[2], cfg)
    if said == 'None is not a callable object':
        # mmengine asks for the arguments of an optimizer before it looks whether there is one
        for key, node in nodes(cfg):
            if key.endswith('optimizer.type') and isinstance(node, str) and not list(_classes(node)):
                return _unregistered(node, 'optimizer', cfg)
    return None


def nodes(part, key: str = '') -> Iterator[tuple[str, object]]:
    """Yield everything inside of ``part`` of a config, outer nodes first, each with its dotted key."""
    part = part.to_dict() if isinstance(part, Config) else part
    items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, (list, tuple)) else ()
    for name, child in items:
        path = f'{key}.{name}' if key else str(name)
        yield path, child
        yield from nodes(child, path)


def registered() -> Iterator[tuple[str, Registry]]:
    """Yield all registries of mmengine, and those of other packages below them, with the names of their kinds."""
    for root in vars(mmengine.registry).values():
        if isinstance(root, Registry):
            for registry in (root, *root.children.values()):
                # of what cannot be imported here, nothing is near
                with suppress(ImportError):
                    registry.import_from_location()
                yield root.name, registry


def _unregistered(name: str, kind: str, cfg: Config) -> ValueError:
    key = next((path for path, node in nodes(cfg) if path.endswith('type') and node == name), 'type')
    scopes = 'mmengine', 'mmsnn', cfg.get('default_scope')
    plain: dict[str, str] = {}
    for each, registry in registered():
        # models, tasks and losses share a registry
        if each == kind and registry.scope in scopes:
            for known in registry.module_dict:
                # the first three are found without their package's name
                plain.setdefault(known.lower(), f'mmsnn.{known}' if registry.scope == 'mmsnn' else known)
    bare = name.rpartition('.')[2].lower()
    close = [bare] if bare in plain else difflib.get_close_matches(bare, plain, 2, 0.8)
    close = close or [known for known in plain if sorted(known) == sorted(bare)]
    hint = (
        f'did you mean {" or ".join(plain[one] for one in close)}?'
        if close
        else "is its module imported (custom_imports), and its package named (type='mmdet.NAME')?"
    )
    return ValueError(f'{key}: {name!r} is not in the registry of {kind}s; {hint}')


def _in_a_builder(problem: Exception) -> bool:
    """Whether a builder of mmengine called what failed, rather than code that runs later."""
    return any(
        frame.name in BUILDERS and '/mmengine/' in frame.filename.replace('\\', '/')
        for frame in traceback.extract_tb(problem.__traceback__)
    )


def _classes(kind) -> Iterator[type]:
    """Yield the classes, or functions, that a ``type`` may mean."""
    if not isinstance(kind, str):
        yield kind
        return
    for _, registry in registered():
        found = registry.module_dict.get(kind.rpartition('.')[2])
        if found is not None:
            yield found


def _made_of(cfg: Config, name: str) -> Iterator[tuple[str, dict, type]]:
    """Yield the dicts of ``cfg`` whose type is a class of this name, or inherits from one, with key and class."""
    for key, node in nodes(cfg):
        kind = node.get('type') if isinstance(node, dict) else None
        for found in _classes(kind) if kind else ():
            if any(base.__name__ == name for base in getattr(found, '__mro__', ())):
                yield key, node, found
                break


def _accepted(kind: type) -> list[str]:
    """The names of the arguments of a class, with those of the classes to which it hands on what it does not know."""
    names: dict[str, None] = {}
    for base in inspect.getmro(kind)[:-1]:
        if '__init__' in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()
            names |= {p.name: None for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
            if not any(p.kind == p.VAR_KEYWORD for p in parameters):
                break
    return [name for name in names if name != 'self']


def _unexpected(owner: str | None, function: str, name: str, cfg: Config) -> TypeError | None:
    for key, node, kind in _made_of(cfg, owner) if owner else ():
        if name in node:
            accepted = _accepted(kind)
            close = difflib.get_close_matches(name, accepted, 1)
            hint = f'did you mean {close[0]}?' if close else f'it takes {", ".join(sorted(accepted))}'
            return TypeError(f'{key}.{name}: {kind.__name__} has no such key; {hint}')
    keys = [key for key, _ in nodes(cfg) if key.rpartition('.')[2] == name]
    return TypeError(f'{keys[0]}: {owner or function} has no such key') if len(keys) == 1 else None


def _missing(owner: str, name: str, cfg: Config) -> TypeError | None:
    for key, node, kind in _made_of(cfg, owner):
        if name not in node:
            return TypeError(f'{key}: {kind.__name__} needs {name}')
    return None
