"""What an installation holds: the configs, tools and demos that OpenMMLab and ``python -m mmsnn`` look for."""

import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from mmengine.config import Config

import mmsnn
from mmsnn import __main__ as cli

REPO = Path(__file__).parents[1]
PARTS = (
    'mmsnn',
    'configs',
    'tools',
    'demo',
    'setup.py',
    'pyproject.toml',
    'README.md',
    'MANIFEST.in',
    'model-index.yml',
)


@pytest.fixture(autouse=True, scope='module')
def without_cuda_kernels():
    """They take minutes to compile; tests/ops/test_cuda.py does that."""
    os.environ['MMSNN_CUDA'] = '0'
    yield
    del os.environ['MMSNN_CUDA']


def run(*command, **kwargs):
    result = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, **kwargs)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A copy of the sources: builds leave litter, and an old build folder would hide what is missing."""
    folder = tmp_path_factory.mktemp('source')
    for part in PARTS:
        if (REPO / part).is_dir():
            shutil.copytree(REPO / part, folder / part, ignore=shutil.ignore_patterns('__pycache__', '.mim'))
        else:
            shutil.copy2(REPO / part, folder / part)
    return folder


@pytest.fixture
def setup(monkeypatch):
    """The functions of setup.py, which builds nothing where it is asked for a name."""
    monkeypatch.setattr(sys, 'argv', ['setup.py', '--name'])
    return runpy.run_path(str(REPO / 'setup.py'))


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory):
    out = tmp_path_factory.mktemp('wheel')
    run('-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '--no-index', '-w', out, source)
    return next(out.glob('*.whl'))


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """The environment of a process that sees the installed wheel before anything else."""
    target = tmp_path_factory.mktemp('installed')
    run('-m', 'pip', 'install', '--no-deps', '--no-index', '--no-compile', '--target', target, wheel)
    return {**os.environ, 'PYTHONPATH': str(target)}


def test_wheel_holds_what_openmmlab_looks_for(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [
        REPO / 'model-index.yml',
        *(path for part in ('configs', 'tools', 'demo') for path in (REPO / part).rglob('*')),
    ]
    kinds = ('.py', '.sh', '.yml', '.ipynb')
    wanted = [
        path.relative_to(REPO).as_posix() for path in files if path.suffix in kinds and '-checkpoint' not in path.stem
    ]
    missing = {f'mmsnn/.mim/{path}' for path in wanted} - names
    assert not missing
    assert not [name for name in names if name.endswith('.pyc') or name.startswith('tests')]


def test_editable_install_links(source, tmp_path):
    run('-c', f'from setuptools.build_meta import build_editable; build_editable({str(tmp_path)!r})', cwd=source)
    for part in ('configs', 'tools', 'demo', 'model-index.yml'):
        link = source / 'mmsnn' / '.mim' / part
        assert link.is_symlink() and link.resolve() == (source / part).resolve()


@pytest.mark.parametrize(
    'command, asked, driver, wanted',
    [
        # A wheel is built for machines that are not this one.
        ('bdist_wheel', None, False, True),
        ('bdist_wheel', None, True, True),
        ('bdist_wheel', '0', True, False),
        # What is installed in place is for this one.
        ('editable_wheel', None, False, False),
        ('editable_wheel', None, True, True),
        ('editable_wheel', '1', False, True),
        ('editable_wheel', '0', True, False),
        ('build_ext --inplace', '', False, False),
    ],
)
def test_when_cuda_is_compiled(setup, command, asked, driver, wanted):
    assert setup['wants_cuda'](['setup.py', *command.split()], asked, driver) is wanted


def test_cuda_that_cannot_be_compiled_is_named(setup, monkeypatch, capsys):
    cpp_extension = pytest.importorskip('torch.utils.cpp_extension')
    monkeypatch.setattr(cpp_extension, 'CUDA_HOME', None)
    for asked, said in (('1', True), ('0', False)):
        monkeypatch.setenv('MMSNN_CUDA', asked)
        assert [e.name for e in setup['kernels']()[0]] == ['mmsnn.ops._C']
        assert ("CUDA's kernels are skipped: MMSNN_CUDA=1 needs nvcc" in capsys.readouterr().err) == said


def test_installed_commands(installed, tmp_path):
    listing = run('-m', 'mmsnn', cwd=tmp_path, env=installed)
    assert {'train', 'test', 'env'} <= {line.split()[0] for line in listing.splitlines() if line.startswith('  ')}


SCRIPT = """
import mmsnn, mmengine.hub
from mmengine.config import Config
print(mmsnn.__file__)
for base in {bases!r}:
    open('child.py', 'w').write(f'_base_ = {{base!r}}')
    assert Config.fromfile('child.py').model, base
    assert mmengine.hub.get_config(base).model, base
"""

BASES = [
    'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
    'mmseg::fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py',
    'mmpretrain::resnet/resnet18_8xb32_in1k.py',
]


def own_base():
    """A training config of ours, by its cross-library name."""
    folder = REPO / 'configs'
    first = next(path for path in sorted(folder.glob('[a-z]*/*.py')))
    return f'mmsnn::{first.relative_to(folder).as_posix()}'


def test_installed_configs_are_bases(installed, tmp_path):
    out = run('-c', SCRIPT.format(bases=[own_base(), *BASES]), cwd=tmp_path, env=installed)
    assert out.splitlines()[0].startswith(installed['PYTHONPATH'])


@pytest.mark.skipif(not (Path(mmsnn.__file__).parent / '.mim').is_dir(), reason='needs pip install -e .')
def test_editable_configs_are_bases(tmp_path):
    child = tmp_path / 'child.py'
    child.write_text(f'_base_ = {own_base()!r}')
    assert Config.fromfile(child).model


class TestCommands:
    def test_every_script_has_a_name_and_a_line_of_its_own(self):
        files = [path for folder in ('tools', 'demo') for path in (REPO / folder).rglob('*.py')]
        names = Counter(path.stem for path in files if '__main__' in path.read_text())
        assert max(names.values()) == 1
        assert 'env' not in names
        assert all(len(line.split()) > 1 for line in cli.listing().splitlines() if line.startswith('  '))

    def test_arguments_arrive(self, tmp_path, monkeypatch, capsys):
        (tmp_path / 'tools' / 'deeper').mkdir(parents=True)
        (tmp_path / 'demo').mkdir()
        script = (
            '"""Say.\n\nMore."""\nimport sys\nimport neighbour_of_say\nif __name__ == "__main__": print(sys.argv[1:])'
        )
        (tmp_path / 'tools' / 'deeper' / 'say.py').write_text(script)
        (tmp_path / 'tools' / 'deeper' / 'neighbour_of_say.py').touch()
        monkeypatch.setattr(cli, 'home', lambda: tmp_path)
        monkeypatch.setattr(sys, 'argv', sys.argv)
        monkeypatch.setattr(sys, 'path', [*sys.path])
        cli.main(['say', 'a', '--b'])
        assert capsys.readouterr().out == "['a', '--b']\n"
        cli.main([])
        listing = capsys.readouterr().out
        assert 'Say.' in listing and 'neighbour' not in listing

    def test_unknown(self):
        with pytest.raises(SystemExit, match="no command 'trian'"):
            cli.main(['trian'])

    def test_environment(self):
        rows = dict(line.split(maxsplit=1) for line in cli.environment().splitlines())
        assert rows['mmsnn'] == mmsnn.__version__
        assert {'torch', 'torchvision', 'mmengine', 'mmdet', 'mmseg', 'mmpretrain', 'spikingjelly', 'GPU'} <= set(rows)
