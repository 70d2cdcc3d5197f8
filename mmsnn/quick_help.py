"""``mmsnn COMMAND --help`` without the imports of the command, which take seconds.

A tool's parser needs none of torch. So its file is run with stand-ins for all that it imports but the standard library
and the options that the tools share, and its ``parse_args`` is called. A stand-in whose value would be seen, in a
text, a condition or a loop, raises `Seen`, and then the command runs as it is: what is printed is never invented.
"""

import argparse
import importlib.abc
import importlib.machinery
import sys
import types
from pathlib import Path

# these are read as they are; they add options
SHARED = ('mmsnn', 'mmsnn.engine', 'mmsnn.engine.cli', 'mmsnn.engine.options', 'mmsnn.shipped')
PLAIN = {*sys.stdlib_module_names, 'yaml'}


class Seen(Exception):
    """A stand-in's value is asked for."""


def _refuse(*_, **__):
    raise Seen


class _Kind(type):
    """Metaclass of what stands in for anything: class, function, decorator, constant."""

    def __getattr__(cls, name: str):
        if name.startswith('__'):
            raise AttributeError(name)
        # the one that the options of argparse need
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
    """Stands in for every name of a module that is not imported."""


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
    """Print the help of the tool at ``path`` and return True; or print nothing and return False.

    Args:
        path: a file with a function ``parse_args(argv)``.
        arguments: of the command line, ``--help`` among them.
    """
    before, finder, argv = dict(sys.modules), _Finder(), sys.argv
    # importing a stand-in binds it in its package
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
    # a stand-in was seen, or does not do what the file wants of it: the command itself can
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
