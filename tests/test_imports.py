"""The rooms of mmsnn: what may import what, no circles, and no file too long to be read at once."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'mmsnn'

# From the bottom to the top: a room imports itself and what stands above it in this list. 'mmsnn' is its __init__.
ROOMS = (
    'version',
    'import_hook',
    'mmsnn',
    'listing',
    'registry',
    'shipped',
    'refusals',
    'building',
    'parts',
    'compat',
    'mmcv_ops',
    'ops',
    'environment',
    'layers',
    'neurons',
    'checkpoints',
    'models',
    'distill',
    'inference',
    'datasets',
    'quick_help',
    'analysis',
    'engine',
    'visualize',
    'report',
    'deploy',
    '__main__',
)
# The same for the rooms inside mmsnn.models: a neck may use a backbone's parts, and a backbone no neck's.
MODEL_ROOMS = ('backbones', 'necks', 'heads')

# The import hook patches other libraries when they are imported, and loads its patches only then.
LAZY = {('mmsnn.import_hook', 'mmsnn.compat'), ('mmsnn.import_hook', 'mmsnn.mmcv_ops.standin')}

LIMIT = 300
# A longer file says why, in a line that begins so.
REASON = 'Over 300 lines because'


def sources() -> dict[str, Path]:
    """The files of the package by the name of their module; the links to configs and tools are left out."""
    files = [path for path in PACKAGE.rglob('*.py') if '.mim' not in path.parts]
    names = {path: '.'.join(('mmsnn', *path.relative_to(PACKAGE).with_suffix('').parts)) for path in files}
    return {name.removesuffix('.__init__'): path for path, name in names.items()}


SOURCES = sources()


def imports(module: str, text: str, is_package: bool = False, known=SOURCES) -> set[str]:
    """The modules of mmsnn that ``text``, the source of ``module``, imports anywhere, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.partition('.')[0] == 'mmsnn'}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                home = module.split('.')[: None if is_package and node.level == 1 else (is_package - node.level)]
                base = '.'.join([*home, *([base] if base else [])])
            if base.partition('.')[0] == 'mmsnn':
                # a name may be a module of a package, or something that the package's __init__ holds
                found |= {f'{base}.{a.name}' if f'{base}.{a.name}' in known else base for a in node.names}
        elif isinstance(node, ast.Call) and 'import_module' in ast.unparse(node.func):
            # a lazy import whose module is written out; __init__ files that offer names lazily compute it
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else ''
            found |= {name} & set(known)
    return found - {module}


@pytest.fixture(scope='module')
def graph() -> dict[str, set[str]]:
    """What each module imports."""
    return {
        name: imports(name, path.read_text(encoding='utf-8'), path.name == '__init__.py')
        for name, path in SOURCES.items()
    }


def room(module: str) -> str:
    """The part of mmsnn that a module lies in."""
    return module.split('.')[1] if '.' in module else 'mmsnn'


def test_every_room_has_its_place():
    unknown = {room(name) for name in SOURCES} - set(ROOMS)
    assert not unknown, f'{sorted(unknown)}: enter new rooms of mmsnn in ROOMS, above all that import them'


def test_no_import_runs_upwards(graph):
    upwards = [
        f'{name} imports {other}'
        for name, others in graph.items()
        for other in sorted(others)
        if ROOMS.index(room(other)) > ROOMS.index(room(name)) and (name, other) not in LAZY
    ]
    assert not upwards, '\n'.join(upwards)
    assert all(other in graph[name] for name, other in LAZY), 'LAZY names an import that is gone'


def test_no_import_runs_upwards_in_models(graph):
    def floor(module):
        part = module.split('.')[2] if module.startswith('mmsnn.models.') else ''
        return MODEL_ROOMS.index(part) if part in MODEL_ROOMS else None

    pairs = [(a, b) for a, others in graph.items() for b in others if None not in (floor(a), floor(b))]
    assert pairs and not [f'{a} imports {b}' for a, b in pairs if floor(b) > floor(a)]


def test_no_import_runs_in_a_circle(graph):
    eager = {name: {other for other in others if (name, other) not in LAZY} for name, others in graph.items()}
    try:
        list(TopologicalSorter(eager).static_order())
    except CycleError as error:
        pytest.fail('a circle of imports: ' + ' <- '.join(error.args[1]))


def test_how_imports_are_read():
    known = {'mmsnn.a', 'mmsnn.a.b', 'mmsnn.a.c', 'mmsnn.d'}
    text = 'import torch, mmsnn.d\nfrom . import c\nfrom .c import x\ndef f():\n    from ..d import y\n'
    assert imports('mmsnn.a.b', text, known=known) == {'mmsnn.a.c', 'mmsnn.d'}
    text = "if TYPE_CHECKING:\n    from .c import x\nlater = importlib.import_module('mmsnn.d')\n"
    assert imports('mmsnn.a.b', text, known=known) == {'mmsnn.a.c', 'mmsnn.d'}
    assert imports('mmsnn.a', 'from .c import x\nfrom ..d import y', True, known) == {'mmsnn.a.c', 'mmsnn.d'}
    assert imports('mmsnn.d', 'from mmsnn.a import b, z', known=known) == {'mmsnn.a', 'mmsnn.a.b'}


def test_files_are_short_or_say_why_not():
    files = [
        p for p in PACKAGE.rglob('*') if p.suffix in ('.py', '.h', '.cpp', '.cu', '.cuh') and '.mim' not in p.parts
    ]
    texts = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding='utf-8') for path in files}
    lengths = {name: text.count('\n') for name, text in texts.items() if REASON not in text}
    long = {name: lines for name, lines in lengths.items() if lines > LIMIT}
    assert not long, f'{long}: part them, or write a comment that begins with "{REASON}"'
