"""R03: the compiled kernels, each CPU's, and the fallback give what the reference gives."""

import os
import re
import subprocess
import sys
from pathlib import Path

import ops_checks
import pytest

from mmsnn.ops import extension, lif


@pytest.mark.parametrize('case', ops_checks.cases(), ids=ops_checks.name_of)
def test_here(case):
    ops_checks.check_parity(lif, case)


@pytest.mark.parametrize('build', ['baseline', 'avx2', 'avx512', 'plain PyTorch'])
def test_every_build(build):
    if build != 'plain PyTorch' and extension.compiled() is None:
        pytest.skip('the compiled kernels are not here')
    choice = {'MMSNN_EXTENSION': '0'} if build == 'plain PyTorch' else {'MMSNN_CPU': build}
    done = subprocess.run(
        [sys.executable, ops_checks.__file__],
        env={**os.environ, **choice},
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(ops_checks.__file__).parent,
    )
    path, count, failed = re.search(r'(.+): (\d+) cases, (\d+) failures', done.stdout + done.stderr).groups()
    if build not in path and 'compiled' in path:
        pytest.skip(f'this CPU has no {build}')
    assert build in path and int(failed) == done.returncode == 0, done.stdout + done.stderr
    assert int(count) == len(ops_checks.cases()) >= 120
