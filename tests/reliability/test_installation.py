"""R24: whatever is missing or broken in an installation, mmsnn works without it, or says in one line why not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cli
import pytest

from mmsnn.ops import extension
from mmsnn.ops.sealing import SIZE, fault, seal

LIBRARY = next(iter(sorted(Path(extension.__file__).parent.glob('_C*.so'))), None)
needs_library = pytest.mark.skipif(
    LIBRARY is None or extension.compiled() is None, reason='the compiled kernels were not built'
)
SCRIPT = """
import torch, mmsnn
from mmsnn.ops import extension, lif
assert lif(torch.ones(4, 3, requires_grad=True), 2, v_threshold=0.5).sum() == 12
print(mmsnn.__file__)
print(extension.serving('cpu'))
"""


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    """A copy of the package, whose files may be spoilt."""
    folder = tmp_path_factory.mktemp('copy')
    shutil.copytree(cli.ROOT / 'mmsnn', folder / 'mmsnn', ignore=shutil.ignore_patterns('__pycache__', '.mim', '_C*'))
    return folder


def python(folder: Path, *arguments, script: str = SCRIPT, **environment):
    """What a process of that copy prints, and its exit code."""
    done = subprocess.run(
        [sys.executable, *arguments, '-c', script],
        env={**os.environ, 'PYTHONPATH': str(folder), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
    )
    return done.returncode, done.stdout, done.stderr


def libraries(copy: Path, **contents: bytes) -> None:
    """Nothing but these files as compiled kernels; names without suffix."""
    ops = copy / 'mmsnn' / 'ops'
    for old in ops.glob('_C*'):
        old.unlink()
    for name, content in contents.items():
        (ops / f'{name.replace("__", ".")}.so').write_bytes(content)


FAULTS = {
    'empty': lambda whole: b'',
    'its first bytes': lambda whole: whole[:50],
    'its header': lambda whole: whole[:64],
    'a page': lambda whole: whole[:4096],
    'half': lambda whole: whole[: len(whole) // 2],
    'all but the last kilobyte': lambda whole: whole[: -SIZE - 1000],
    'a flipped bit': lambda whole: whole[:99999] + bytes([whole[99999] ^ 1]) + whole[100000:],
    'a hole of zeros': lambda whole: whole[:50000] + bytes(50000) + whole[100000:],
    'a web page': lambda whole: b'<html>not found</html>',
}


@needs_library
@pytest.mark.parametrize('kind', FAULTS)
def test_a_damaged_library_is_not_mapped(copy, kind):
    """What is mapped and cut ends the process by SIGBUS, exit code 135."""
    seal(shutil.copy(LIBRARY, copy / 'whole.so'))
    libraries(copy, _C=FAULTS[kind]((copy / 'whole.so').read_bytes()))
    code, out, err = python(copy)
    assert code == 0, (code, err[-2000:])
    assert 'plain PyTorch: _C.so is not loaded, it is' in out and 'pip install' in out


@needs_library
@pytest.mark.parametrize('other', ['a cut one', 'one of another program'])
def test_a_good_library_beside_a_bad_one(copy, other):
    whole = LIBRARY.read_bytes()
    bad = whole[: len(whole) // 2] if other == 'a cut one' else b'\x7fELF' + b'\x02' + bytes(99)
    libraries(copy, _C=whole, _C__cpython_310=bad)
    code, out, err = python(copy)
    assert code == 0 and 'compiled' in out, (out, err[-2000:])


@needs_library
def test_a_library_that_does_not_fit(copy):
    """One that was compiled against something else."""
    path = copy / 'other.c'
    path.write_text('extern int nothing_that_exists(void); int f(void) { return nothing_that_exists(); }')
    compiler = shutil.which('gcc') or shutil.which('cc')
    if compiler is None:
        pytest.skip('no compiler')
    subprocess.run([compiler, '-shared', '-fPIC', '-Wl,-z,now', '-o', copy / 'other.so', path], check=True)
    libraries(copy, _C=(copy / 'other.so').read_bytes())
    code, out, err = python(copy)
    assert code == 0 and 'does not fit this torch' in out and 'pip install' in out, (out, err[-2000:])


def test_a_seal_is_kept_and_checked(tmp_path):
    if LIBRARY is None:
        pytest.skip('the compiled kernels were not built')
    path = Path(shutil.copy(LIBRARY, tmp_path / '_C.so'))
    seal(path)
    size = path.stat().st_size
    seal(path)
    assert path.stat().st_size == size and fault(path) == ''
    # an ELF file whose end a tool rewrote is checked for its length
    path.write_bytes(path.read_bytes()[:-SIZE])
    assert fault(path) == ''


@pytest.mark.parametrize('switch', ['without kernels', 'told not to use them'])
def test_without_the_compiled_kernels(copy, switch):
    libraries(copy)
    environment = dict(MMSNN_EXTENSION='0') if switch == 'told not to use them' else {}
    code, out, _ = python(copy, **environment)
    assert code == 0 and 'plain PyTorch' in out


def test_a_training_without_the_kernels_says_so_once(tmp_path):
    """In its log file, where somebody who wonders about the time looks."""
    config = cli.write_classifier(tmp_path)
    work_dir = tmp_path / 'work'
    done = cli.run('train', config, '--work-dir', work_dir, MMSNN_EXTENSION='0')
    assert done.returncode == 0, done.stdout[-3000:]
    (log,) = work_dir.rglob('*.log')
    said = [line for line in log.read_text().splitlines() if 'mmsnn ops on' in line]
    assert len(said) == 1 and 'plain PyTorch (MMSNN_EXTENSION=0)' in said[0]


@pytest.mark.skipif(not hasattr(os, 'geteuid'), reason='needs users')
def test_a_home_that_cannot_be_written(copy, tmp_path):
    """Nor caches, nor the folder of the package."""
    libraries(copy)
    home = tmp_path / 'no folder'
    home.write_text('')
    names = ('HOME', 'XDG_CACHE_HOME', 'TORCH_HOME', 'MPLCONFIGDIR', 'TRITON_CACHE_DIR', 'TORCHINDUCTOR_CACHE_DIR')
    code, out, err = python(copy, '-B', **{name: str(home / 'x') for name in names})
    assert code == 0, err[-2000:]


def test_optimised_python_checks_as_well(copy):
    """`python -O` leaves assertions out; none of mmsnn's checks is one."""
    libraries(copy)
    script = (
        SCRIPT.replace('assert ', '')
        + """
for arguments in (dict(T=0), dict(T=3), dict(T=2, tau=0.5), dict(T=2, surrogate='none')):
    try:
        lif(torch.ones(4, 3), **arguments)
    except (TypeError, ValueError) as error:
        print('refused', error)
"""
    )
    code, out, err = python(copy, '-O', script=script)
    assert code == 0 and out.count('refused') == 4, (out, err[-2000:])
    asserting = [
        f'{path}:{number}'
        for path in (cli.ROOT / 'mmsnn').rglob('*.py')
        if '.mim' not in path.parts
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if line.lstrip().startswith('assert ')
    ]
    assert not asserting


def test_training_under_optimised_python(tmp_path):
    config = cli.write_classifier(tmp_path)
    code = 'import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name="__main__")'
    done = subprocess.run(
        [sys.executable, '-O', '-c', code, cli.ROOT / 'tools/train.py', config, '--work-dir', tmp_path / 'run'],
        env=cli.own_environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0 and (tmp_path / 'run' / 'epoch_2.pth').is_file(), done.stderr[-3000:]


def test_without_mmcv_ops(copy):
    """Where the stand-in is refused as well, the message is one of mmcv's or ours, not a crash."""
    libraries(copy)
    code, out, err = python(copy, MMSNN_MMCV_STANDIN='0')
    assert code == 0, err[-2000:]
    script = 'import sys, mmsnn, mmcv.ops\nprint(type(sys.modules["mmcv._ext"]).__module__)'
    code, out, err = python(copy, script=script, MMSNN_MMCV_STANDIN='0')
    assert code >= 0 and 'mmsnn.mmcv_ops' not in out
    assert code == 0 or 'mmcv._ext' in err, err[-2000:]
    if 'mmsnn' in type(sys.modules['mmcv._ext']).__module__:
        code, out, err = python(copy, script=script)
        assert code == 0 and 'mmsnn.mmcv_ops' in out, err[-2000:]
