"""``mmsnn COMMAND ...`` (or ``python -m mmsnn``) runs the tools and demos from any folder; alone, it lists them."""

import ast
import importlib
import importlib.metadata
import platform
import runpy
import sys
from pathlib import Path

from .compat import torchvision_version
from .shipped import home


def scripts() -> dict[str, Path]:
    """The Python files under ``tools`` and ``demo`` that can be run, by name without suffix."""
    found = [*sorted((home() / 'tools').rglob('*.py')), *sorted((home() / 'demo').glob('*.py'))]
    return {path.stem: path for path in found if '__main__' in path.read_text(encoding='utf-8')}


def listing() -> str:
    """One line a command: the first line of its docstring."""
    lines = ['mmsnn COMMAND ...', '', f'  {"env":<24}Print the versions a report of a problem should name.']
    for name, path in scripts().items():
        doc = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or ''
        lines.append(f'  {name:<24}{doc.partition(chr(10))[0]}'.rstrip())
    return '\n'.join([*lines, '', 'COMMAND --help tells more.'])


def version(module: str) -> str:
    """The version of a module, or why it cannot be imported."""
    try:
        found = importlib.import_module(module)
        return getattr(found, '__version__', None) or importlib.metadata.version(module)
    # A library that is broken must not hide the versions of the others.
    except Exception as error:
        return f'{type(error).__name__}: {error}'.splitlines()[0]


def environment() -> str:
    """Versions, GPU, and where mmcv's ops come from, a line each."""
    # not before they are needed: the list of commands is to come at once
    import torch
    from mmengine.utils.dl_utils import mmcv_full_available

    from . import mmcv_ops
    from .ops import library

    rows = {'python': platform.python_version(), 'torch': version('torch'), 'torchvision': torchvision_version()}
    rows |= {name: version(name) for name in ('mmsnn', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain')}
    rows['mmcv ops'] = "mmsnn's stand-in" if mmcv_ops.active() else 'compiled' if mmcv_full_available() else 'none'
    rows['spikingjelly'] = version('spikingjelly')
    rows['ops CPU'], rows['ops CUDA'] = library.cpu_path, library.cuda_path
    rows['GPU'] = torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'
    return '\n'.join(f'{name:<14}{value}' for name, value in rows.items())


def main(arguments: list[str] | None = None) -> None:
    """Run the command named first in ``arguments`` (default: the command line) with what follows it.

    Raises:
        SystemExit: with a message, if there is no such command.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ('-h', '--help'):
        print(listing())
        return
    command, *rest = arguments
    if command == 'env':
        print(environment())
        return
    path = scripts().get(command)
    if path is None:
        raise SystemExit(f'no command {command!r}\n\n{listing()}')
    # What `python FILE` does too: scripts may import their neighbours.
    sys.path.insert(0, str(path.parent))
    sys.argv = [str(path), *rest]
    runpy.run_path(str(path), run_name='__main__')


if __name__ == '__main__':
    main()
