"""What libraries say of parts of a config that they cannot build, said again with the part's key and near names."""

import difflib
import inspect
import re
import sys
import sysconfig
import traceback
import typing
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import mmengine.registry
from mmengine.config import Config
from mmengine.registry import Registry
from torch import Tensor, nn

from .building import type_name

# What runs the forward pass of every module.
CALL = nn.Module._call_impl.__code__
# Functions of mmengine that pass values of a config on.
BUILDERS = 'build_from_cfg', 'build_runner_from_cfg', '_clip_grad', '__call__'
# What mmengine says where it uses a type before it looks whether it has found one: the type's place and registry.
NOT_FOUND = {
    'None is not a callable object': ('optimizer.type', 'optimizer'),
    'the first argument must be callable': ('collate_fn.type', 'function'),
}
# Packages whose traceback tells a user no more than their words do; others lie where packages are installed.
LIBRARIES = {'mmsnn', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', *sys.stdlib_module_names}
# Those that build a part, and which of their variables holds its config.
PART_OF = {
    'build_from_cfg': 'cfg',
    'build_scheduler_from_cfg': 'cfg',
    'build_dataloader': 'dataloader',
    'build_train_loop': 'loop',
    'build_val_loop': 'loop',
    'build_test_loop': 'loop',
    'setup_env': 'env_cfg',
    'build_optim_wrapper': 'cfg',
}


@contextmanager
def parts_named(cfg: Config, source: str = '') -> Iterator[None]:
    """Context in which an error of building a part of ``cfg`` is told with the part's key.

    Errors that keep their own words, those of a model's forward pass for one, say where they arose in a note.

    Args:
        cfg: a config.
        source: where ``cfg`` comes from, if it is not the file that the user named.

    Raises:
        ValueError: a type of ``cfg`` is not registered, or a library refuses a value.
        TypeError: a type of ``cfg`` does not take one of its keys, or lacks one.
    """
    try:
        yield
    except Exception as problem:
        named = explain(problem, cfg)
        if named is None:
            if key := _built(problem, cfg)[0]:
                problem.add_note(f'This arose while {source}{key} was built.')
            elif place := _layer(problem):
                problem.add_note(f'This arose in {place}.')
            raise
        raise type(named)(f'{source}{named}') from problem


def explain(problem: Exception, cfg: Config) -> Exception | None:
    """The error that names the key of ``cfg`` which ``problem`` is about; None for a problem of another kind."""
    return _about_a_type(problem, cfg) or _refused(problem, cfg)


def _about_a_type(problem: Exception, cfg: Config) -> Exception | None:
    said = str(problem)
    if isinstance(problem, KeyError):
        if found := re.search(r'(\S+) is not in the (\S+::)?(.+?) registry', said):
            return _unregistered(found[1].strip('\'"'), found[3], cfg)
        last = [frame for frame, _ in traceback.walk_tb(problem.__traceback__)][-1]
        if last.f_globals.get('__name__', '').startswith('mmcv.cnn') and 'layer_type' in last.f_locals:
            # of norms, activations and convolutions mmcv says that it did not find None
            return _unregistered(last.f_locals['layer_type'], 'model', cfg)
        return None
    if not isinstance(problem, TypeError) or not _in_a_builder(problem):
        return None
    if found := re.search(r"(?:(\w+)\.)?(\w+)\(\) got an unexpected keyword argument '(\w+)'", said):
        return _unexpected(found[1], found[2], found[3], cfg)
    if found := re.search(r"(\w+)\.__init__\(\) missing \d+ required .*?: '(\w+)'", said):
        return _missing(found[1], found[2], problem, cfg)
    place, kind = NOT_FOUND.get(said, ('', ''))
    for key, node in nodes(cfg) if place else ():
        if key.endswith(place) and isinstance(node, str) and not list(classes_of(node)):
            return _unregistered(node, kind, cfg)
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


def classes_of(kind) -> Iterator[type]:
    """Yield the classes, or functions, that a ``type`` may mean: names without a package, several."""
    if not isinstance(kind, str):
        yield kind
        return
    for _, registry in registered():
        found = registry.module_dict.get(kind.rpartition('.')[2])
        if found is not None:
            yield found


def arguments_of(kind: type) -> dict[str, object]:
    """The arguments of a class, with those of the classes to which it hands on what it does not know, by name.

    Their values are the annotations, None where there is none, or where it names what only a type checker knows.
    """
    found: dict[str, object] = {}
    for base in inspect.getmro(kind)[:-1]:
        if '__init__' not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        hints: dict[str, object] = {}
        with suppress(NameError, TypeError, AttributeError):
            hints = typing.get_type_hints(base.__init__)
        for parameter in parameters:
            if parameter.name != 'self' and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                found.setdefault(parameter.name, hints.get(parameter.name))
        if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


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


def _made_of(cfg: Config, name: str) -> Iterator[tuple[str, dict, type]]:
    """Yield the dicts of ``cfg`` whose type is a class of this name, or inherits from one, with key and class."""
    for key, node in nodes(cfg):
        kind = node.get('type') if isinstance(node, dict) else None
        for found in classes_of(kind) if kind else ():
            if any(base.__name__ == name for base in getattr(found, '__mro__', ())):
                yield key, node, found
                break


def _unexpected(owner: str | None, function: str, name: str, cfg: Config) -> TypeError | None:
    for key, node, kind in _made_of(cfg, owner) if owner else ():
        accepted = list(arguments_of(kind))
        # a class that inherits from the one named may well take it
        if name in node and name not in accepted:
            close = difflib.get_close_matches(name, accepted, 1)
            hint = f'did you mean {close[0]}?' if close else f'it takes {", ".join(sorted(accepted))}'
            return TypeError(f'{key}.{name}: {kind.__name__} has no such key; {hint}')
    keys = [key for key, _ in nodes(cfg) if key.rpartition('.')[2] == name]
    return TypeError(f'{keys[0]}: {owner or function} has no such key') if len(keys) == 1 else None


def _missing(owner: str, name: str, problem: Exception, cfg: Config) -> TypeError | None:
    key = _built(problem, cfg)[0]
    made = sorted(_made_of(cfg, owner), key=lambda each: each[0] != key)
    for key, node, kind in made:
        if name not in node:
            return TypeError(f'{key}: {kind.__name__} needs {name}')
    return None


def _built(problem: Exception, cfg: Config) -> tuple[str | None, list]:
    """The key of the part of ``cfg`` that was being built when ``problem`` arose, and the frames from there on.

    The key is None if nothing of ``cfg`` was being built.
    """
    frames = [frame for frame, _ in traceback.walk_tb(problem.__traceback__)]
    for i in reversed(range(len(frames))):
        code = frames[i].f_code
        if code.co_name in PART_OF and '/mmengine/' in code.co_filename.replace('\\', '/'):
            key = _key_of(frames[i].f_locals.get(PART_OF[code.co_name]), cfg)
            if key:
                return key, frames[i + 1 :]
        # some hooks build what they need before the training
        if code.co_name == 'call_hook' and frames[i].f_locals.get('fn_name') in ('before_run', 'before_train'):
            name = type(frames[i].f_locals.get('hook')).__name__
            for key, node in nodes(cfg):
                if isinstance(node, dict) and 'hooks' in key and type_name(node) == name:
                    return key, frames[i + 1 :]
    return None, []


def _key_of(part, cfg: Config) -> str | None:
    """The key of the dict of ``cfg`` from which ``part`` was made, which libraries may have added to."""
    if not isinstance(part, dict):
        return None
    dicts = [(key, node) for key, node in nodes(cfg) if isinstance(node, dict)]
    for key, node in dicts:
        if node == part:
            return key
    alike = [(key, node) for key, node in dicts if 'type' in node and node['type'] == part.get('type')]
    if len(alike) > 1:
        alike = [(key, node) for key, node in alike if all(part.get(name) == value for name, value in node.items())]
    return max(alike, key=lambda each: len(each[1]), default=(None,))[0]


def _layer(problem: Exception) -> str:
    """The innermost module in whose forward pass ``problem`` arose, with the shapes of its input; or nothing."""
    calls = [frame.f_locals for frame, _ in traceback.walk_tb(problem.__traceback__) if frame.f_code is CALL]
    if not calls:
        return ''
    root, last = calls[0]['self'], calls[-1]['self']
    name = next((name for name, module in root.named_modules() if module is last), None)
    if not name:
        return ''
    given = [str(tuple(x.shape)) for x in calls[-1].get('args', ()) if isinstance(x, Tensor)]
    made = f'{type(last).__name__}({last.extra_repr()})'
    return f'model.{name}, {made}' + (f', given a tensor of shape {" and ".join(given)}' if given else '')


def _refused(problem: Exception, cfg: Config) -> Exception | None:
    """What a library's constructor, or one of ours, says of its arguments, with the key of what it makes."""
    key, inside = _built(problem, cfg)
    # what is wrong in a user's own class, its traceback shows; files, disks and memory have words of their own
    if key is None or isinstance(problem, (OSError, MemoryError)) or not all(map(_of_a_library, inside)):
        return None
    if inside and inside[-1].f_globals['__name__'].partition('.')[0] == 'mmsnn':
        return _placed(problem, key, cfg)
    said = str(problem.args[0] if isinstance(problem, KeyError) and problem.args else problem)
    said = said or 'it does not fulfil: ' + (traceback.extract_tb(problem.__traceback__)[-1].line or '')
    kind = '' if isinstance(problem, ValueError) else f'{type(problem).__name__}; '
    return ValueError(f'{key}: {said} ({kind}--verbose shows where)')


def _of_a_library(frame) -> bool:
    installed = tuple(sysconfig.get_path(name) for name in ('purelib', 'platlib'))
    package = frame.f_globals.get('__name__', '').partition('.')[0]
    return package in LIBRARIES or frame.f_code.co_filename.startswith(installed)


def _placed(problem: Exception, key: str, cfg: Config) -> Exception | None:
    """An error of ours, which may begin with a key as the constructor knows it, with the whole key."""
    said, keys = str(problem), dict(nodes(cfg))
    first = re.match(r'[\w.]*', said)[0].rstrip('.')
    if type(problem) not in (ValueError, TypeError) or first.partition('.')[0] in cfg:
        return None
    for above in (key, key.rpartition('.')[0]):
        if '.' in first and f'{above}.{first.partition(".")[0]}' in keys:
            return type(problem)(f'{above}.{said}')
    return type(problem)(f'{key}: {said}')
