"""Who may run code: the config on the command line has the rights of a script, what ``--cfg-options`` says has none.

A value of ``--cfg-options`` may choose among what is registered, and it may name files; it may not have a module
imported, a function called or a script read that neither the config nor an installed package of OpenMMLab holds.
"""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import mmengine.registry
import torch
from mmengine.config import Config
from mmengine.registry import Registry

from mmsnn.compat import CONFIG_FILES
from mmsnn.shipped import find_config, home

PACKAGES = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'mmsnn')
# what torch may be asked for by its full name: the constructors of these do nothing but construct
BUILT = (torch.nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
RIGHTS = (
    'Write it into a config file: the config named on the command line has the rights of a script, an option has none'
)
# what a config may consist of that is data and nothing else
DATA = (
    ast.Module, ast.Assign, ast.Expr, ast.Constant, ast.Dict, ast.List, ast.Tuple, ast.Name, ast.Load, ast.Store,
    ast.Call, ast.keyword, ast.Starred, ast.UnaryOp, ast.USub, ast.BinOp, ast.Add, ast.Sub, ast.Div, ast.FloorDiv,
    ast.Subscript, ast.Attribute,
)  # fmt: skip


def check_options(cfg: Config, options: Mapping) -> None:
    """Refuse options that would have code run which neither ``cfg`` nor an installed package brings.

    Args:
        cfg: the config before the options.
        options: dotted keys with their values.

    Raises:
        ValueError: with the key and the remedy.
    """
    for key, value in _leaves(options):
        path = [part for part in key.split('.') if not part.isdigit()]
        if 'custom_imports' in path:
            raise ValueError(f'--cfg-options {key}={value!r} asks for an import. {RIGHTS}')
        if isinstance(value, str):
            _check_text(cfg, key, path, value)


def _check_text(cfg: Config, key: str, path: list[str], value: str) -> None:
    name = path[-1]
    if name in ('default_scope', '_scope_') and value not in (*PACKAGES, cfg.get('default_scope')):
        raise ValueError(f'--cfg-options {key}={value!r}: the scopes are {", ".join(PACKAGES)}. {RIGHTS}')
    if (name in ('type', 'constructor') or name.endswith('_type')) and _may_import(value):
        _check_type(f'--cfg-options {key}={value!r}', value)
    is_teacher = path[:2] in (['model', 'teacher'], ['model', 'teachers'])
    if is_teacher and name != 'checkpoint' and value.endswith(CONFIG_FILES):
        check_plain(f'--cfg-options {key}', value)


def _leaves(value, key: str = '') -> Iterator[tuple[str, object]]:
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for name, child in items:
        yield from _leaves(child, f'{key}.{name}' if key else str(name))
    if not isinstance(value, Mapping | list | tuple):
        yield key, value


def _may_import(name: str) -> bool:
    """Whether mmengine's registries would import something for a ``type`` that they do not hold."""
    if '.' in name:
        return True
    try:
        return name.isidentifier() and importlib.util.find_spec(name) is not None
    except ValueError:
        return True


def _check_type(said: str, name: str) -> None:
    """Refuse a ``type`` unless it is registered, under its scope if it names one, or one of torch's modules."""
    if not (_is_registered(name) or _is_of_torch(name)):
        raise ValueError(
            f'{said} is no registered type ({", ".join(f"{scope}.NAME" for scope in PACKAGES)}), and anything else '
            f'would be imported. {RIGHTS}'
        )


def _is_registered(name: str) -> bool:
    scope, dot, real = name.partition('.')
    scopes, real = ((scope,), real) if dot else (PACKAGES, name)
    for scope in scopes:
        if scope in PACKAGES:
            # mmcv has none
            with suppress(ImportError):
                importlib.import_module(f'{scope}.registry')
        for root in vars(mmengine.registry).values():
            if not isinstance(root, Registry):
                continue
            registry = root if scope == root.scope else root.children.get(scope)
            if registry is not None:
                registry.import_from_location()
                if real in registry.module_dict:
                    return True
    return False


def _is_of_torch(name: str) -> bool:
    module, _, attribute = name.rpartition('.')
    found = getattr(sys.modules.get(module), attribute, None) if module.partition('.')[0] == 'torch' else None
    return isinstance(found, type) and issubclass(found, BUILT)


def check_plain(said: str, name: str) -> None:
    """Refuse a config file that is more than data; those that come with a package of OpenMMLab may be scripts.

    Args:
        said: what named it, for the message.
        name: a file, or ``PACKAGE::PATH``.

    Raises:
        ValueError: the file, or one of its bases, would run code.
    """
    if '::' in name and name.partition('::')[0] in PACKAGES and find_config(name):
        return
    if '::' in name:
        raise ValueError(f'{said}={name!r} names no config that came with a package of OpenMMLab. {RIGHTS}')
    path = Path(name).expanduser()
    if not path.is_file() or _is_shipped(path):
        # one that is not there is reported by who needs it
        return
    if path.suffix == '.py':
        text = path.read_text(encoding='utf-8')
        try:
            bases, types = _contents(text)
        except (SyntaxError, ValueError, RecursionError) as error:
            raise ValueError(f'{said}={name!r} is a script ({error}), and would be run. {RIGHTS}') from error
    else:
        # read as data by `read_annotations_safely`
        content = mmengine.load(path)
        bases, types = _bases(content.get('_base_', [])), list(_types(content))
        scopes = [v for k, v in _leaves(content) if k.rpartition('.')[2] in ('default_scope', '_scope_')]
        if not set(scopes) <= {*PACKAGES, None}:
            raise ValueError(f'{said}={name!r} names the scopes {scopes}. {RIGHTS}')
        if 'custom_imports' in content:
            raise ValueError(f'{said}={name!r} asks for an import. {RIGHTS}')
    for kind in types:
        _check_type(f'{said}={name!r}: type={kind!r}', kind)
    for base in bases:
        check_plain(said, base if '::' in base else str(path.parent / base))


def _is_shipped(path: Path) -> bool:
    packages = [Path(sys.modules[name].__file__).parent for name in PACKAGES if name in sys.modules]
    folders = [home() / 'configs', *(package / '.mim' / 'configs' for package in packages)]
    return any(path.resolve().is_relative_to(folder.resolve()) for folder in folders if folder.is_dir())


def _contents(text: str) -> tuple[list[str], list[str]]:
    """The bases that a config's text names, and types that may be imported; ValueError where it is not data alone."""
    if '{{' in text:
        raise ValueError('it holds a template, {{')
    tree = ast.parse(text)
    bases, types = [], []
    for node in ast.walk(tree):
        for part in ast.iter_child_nodes(node):
            # operators have no line of their own
            part.lineno = getattr(part, 'lineno', getattr(node, 'lineno', 1))  # type: ignore[attr-defined]
        hidden = isinstance(node, ast.Attribute) and node.attr.startswith('_')
        call = isinstance(node, ast.Call) and (getattr(node.func, 'id', '') != 'dict' or node.args)
        if not isinstance(node, DATA) or hidden or call:
            raise ValueError(f'line {getattr(node, "lineno", 1)} is more than data')
        if isinstance(node, ast.Name) and (
            node.id.startswith('__') or (node.id == 'dict' and not isinstance(node.ctx, ast.Load))
        ):
            raise ValueError(f'line {node.lineno} takes or changes {node.id!r} of Python')
        if isinstance(node, ast.Assign):
            if not all(isinstance(target, ast.Name | ast.Subscript | ast.Attribute) for target in node.targets):
                raise ValueError(f'line {node.lineno} assigns to several names at once')
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if 'custom_imports' in names:
                raise ValueError(f'line {node.lineno} asks for an import')
            if '_base_' in names:
                bases += _bases(ast.literal_eval(node.value))
        for key, value in _pairs(node):
            if key not in ('type', 'constructor', 'default_scope', '_scope_'):
                continue
            if not isinstance(value, ast.Constant):
                raise ValueError(f'line {value.lineno} computes a type')
            if key in ('type', 'constructor') and _may_import(str(value.value)):
                types.append(str(value.value))
            if key in ('default_scope', '_scope_') and value.value not in (*PACKAGES, None):
                raise ValueError(f'line {value.lineno} names the scope {value.value!r}')
    return bases, types


def _pairs(node: ast.AST) -> Iterator[tuple[object, ast.expr]]:
    """What a node of a config's text names: keywords, entries and variables with their values."""
    if isinstance(node, ast.keyword):
        yield node.arg, node.value
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values):
            if key is not None and not isinstance(key, ast.Constant):
                raise ValueError(f'line {key.lineno} computes a name')
            yield getattr(key, 'value', None), value
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Subscript) and not isinstance(target.slice, ast.Constant):
                raise ValueError(f'line {target.lineno} computes a name')
            key = target.slice.value if isinstance(target, ast.Subscript) else None
            yield getattr(target, 'id', getattr(target, 'attr', key)), node.value


def _bases(value) -> list[str]:
    return [value] if isinstance(value, str) else [str(one) for one in value]


def _types(value) -> Iterator[str]:
    for key, leaf in _leaves(value):
        if key.rpartition('.')[2] in ('type', 'constructor') and _may_import(str(leaf)):
            yield str(leaf)
