"""``mmsnn COMMAND --help`` without the imports of the command, which take seconds.

The parser of a tool does not need torch. So the file of the tool is run with placeholders for everything that it
imports, except for the standard library and the options that the tools share, and its ``parse_args`` is called. A
placeholder raises `Seen` as soon as its value matters, in a text, a condition or a loop. The command then runs with its
real imports, so that the printed help is always right.
"""

import argparse
import importlib.abc
import importlib.machinery
import sys
import types
from pathlib import Path

# These modules are imported as usual, because they add options.
SHARED = ('mmsnn', 'mmsnn.engine', 'mmsnn.engine.cli', 'mmsnn.engine.options', 'mmsnn.shipped')
PLAIN = {*sys.stdlib_module_names, 'yaml'}


class Seen(Exception):
    """The value of a placeholder is needed."""


def _refuse(*_, **__):
    raise Seen


class _Kind(type):
    """Metaclass of the placeholder for any name: a class, function, decorator or constant."""

    def __getattr__(cls, name: str):
        if name.startswith('__'):
            raise AttributeError(name)
        # argparse needs this one as a real class.
        return argparse._StoreAction if name == 'DictAction' else StandIn

    def __call__(cls, *args, **kwargs):
        return StandIn

    def __or__(cls, other):
        return StandIn

    def __getitem__(cls, key):
        return StandIn

    __ror__ = __or__
    __bool__ = __iter__ = __len__ = __str__ = __repr__ = __format__ = __contains__ = __lt__ = __gt__ = _refuse


class StandIn(metaclass=_Kind):
    """Placeholder for every name of a module that is not imported."""


class _Module(types.ModuleType):
    __path__: list = []

    def __getattr__(self, name: str):
        if name.startswith('__'):
            raise AttributeError(name)
        return argparse._StoreAction if name == 'DictAction' else StandIn


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name in SHARED or name.partition('.')[0] in PLAIN:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        pass


def show(path: Path, arguments: list[str]) -> bool:
    """Print the help of the tool at ``path`` and return True, or print nothing and return False.

    Args:
        path: a file with a function ``parse_args(argv)``.
        arguments: the arguments of the command line, including ``--help``.
    """
    before, finder, argv = dict(sys.modules), _Finder(), sys.argv
    # The import of a placeholder module sets an attribute of its package, which is undone at the end.
    namespaces = {name: dict(vars(before[name])) for name in SHARED if name in before}
    held = [name for name in before if name.partition('.')[0] not in PLAIN and name not in SHARED and '.' in name]
    try:
        for name in held:
            if name.startswith('mmsnn.') and name not in (__name__, 'mmsnn.__main__'):
                del sys.modules[name]
        sys.meta_path.insert(0, finder)
        sys.argv = [str(path), *arguments]
        code = compile(path.read_text(encoding='utf-8'), str(path), 'exec')
        module = types.ModuleType('tool')
        module.__dict__['__file__'] = str(path)
        exec(code, module.__dict__)
        module.parse_args(arguments)
    except SystemExit as ended:
        return ended.code in (0, None)
    # A placeholder cannot do what the file needs, so the command has to run with its real imports.
    except Exception:
        return False
    finally:
        sys.meta_path.remove(finder)
        sys.argv = argv
        sys.modules.clear()
        sys.modules.update(before)
        for name, names in namespaces.items():
            vars(before[name]).clear()
            vars(before[name]).update(names)
    return False
