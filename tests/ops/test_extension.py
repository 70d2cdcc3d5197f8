"""Which kernels serve, and what is said where they do not."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from mmsnn.ops import extension

OPS = Path(extension.__file__).parent
SCRIPT = """
import torch
from mmsnn.ops import extension, lif
assert extension._kernels is None
print('IMPORTED', flush=True)
x = torch.tensor([1.5, 1.5, 1.0], requires_grad=True)
for _ in range(2):
    out = lif(x, 3)
out.sum().backward()
assert out.tolist() == [0.0, 1.0, 0.0] and x.grad.abs().sum() > 0
print('FILE', extension.__file__)
print('PATH', extension.serving('cpu'))
"""
needs_kernels = pytest.mark.skipif(extension.compiled() is None, reason='the compiled kernels are not here')


def run(folder=None, **environment):
    """Where the ops say they run, and what was warned, in a process that finds mmsnn in ``folder``."""
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', **environment}
    command = [sys.executable, '-c', SCRIPT]
    # the working directory comes first, before an installed mmsnn
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    text = done.stdout + done.stderr
    assert folder is None or f'FILE {folder}' in text
    # at first use, not at import, when a training's log file does not exist
    assert 'mmsnn ops on' not in text.partition('IMPORTED')[0]
    return re.search('PATH (.*)', text)[1], [line for line in text.splitlines() if 'mmsnn ops on the CPU' in line]


@pytest.fixture
def copy(tmp_path):
    """A copy of mmsnn whose sources and kernels may be changed."""
    shutil.copytree(OPS.parent, tmp_path / 'mmsnn', ignore=shutil.ignore_patterns('__pycache__', '.mim'))
    return tmp_path


@needs_kernels
def test_compiled(copy):
    # the sources may have changed since the build
    path, warned = run(copy, MMSNN_EXTENSION='1')
    assert path.startswith('compiled (') and len(warned) == ('other sources' in path)


def test_switched_off():
    path, warned = run(MMSNN_EXTENSION='0')
    assert path == 'plain PyTorch (MMSNN_EXTENSION=0)' and len(warned) == 1


@needs_kernels
def test_other_sources_are_reported(copy):
    header = copy / 'mmsnn' / 'ops' / 'csrc' / 'lif.h'
    header.write_text(header.read_text() + '// changed\n')
    path, warned = run(copy, MMSNN_EXTENSION='1')
    assert path.startswith('compiled (') and 'other sources' in path and 'pip install' in path
    assert len(warned) == 1


@pytest.mark.parametrize('kind', ['empty', 'garbage', 'another'])
def test_a_library_that_does_not_load(copy, kind):
    ops = copy / 'mmsnn' / 'ops'
    file = next(ops.glob('_C*'), ops / '_C.so')
    other = sysconfig.get_config_var('DESTSHARED'), sysconfig.get_config_var('EXT_SUFFIX')
    if kind == 'another' and not Path(other[0], f'_ctypes{other[1]}').exists():
        pytest.skip('no other library to hand')
    content = dict(
        empty=lambda: b'',
        garbage=lambda: b'not a library\n' * 100,
        another=lambda: Path(other[0], f'_ctypes{other[1]}').read_bytes(),
    )
    file.write_bytes(content[kind]())
    path, warned = run(copy, MMSNN_EXTENSION='1')
    said = 'does not fit this torch' if kind == 'another' else 'is not loaded, it is '
    assert path.startswith(f'plain PyTorch: {file.name} {said}') and 'pip install' in path
    assert len(warned) == 1


def test_none_was_built(copy):
    for found in (copy / 'mmsnn' / 'ops').glob('_C*'):
        found.unlink()
    path, warned = run(copy, MMSNN_EXTENSION='1')
    assert path.startswith('plain PyTorch: the compiled kernels were not built; ') and len(warned) == 1
