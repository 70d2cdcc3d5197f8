"""tools/gpu.sh on the CPU: the steps in small, what stands in the summary, and that it goes on after a failure."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / 'tools/gpu.sh'
STEPS = ['wheels', 'nvrtc', 'ops_of_mmcv', 'train_amp', 'nvcc', 'parity', 'R06', 'lif_bf16', 'lif_fp32']
STEPS += ['lif_small_nvcc', 'lif_small_nvrtc', 'step_bf16', 'memory_bf16']

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='this is what it does without a GPU')


def run(out, *options, **environment):
    env = {**os.environ, 'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1', **environment}
    command = ['bash', str(SCRIPT), '--dry', '--out', str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=1800)
    found = json.loads((out / 'summary.json').read_text())
    return done, found, {row['step']: row for row in found['steps']}


def test_some_steps(tmp_path):
    """What cannot run is said so, and so is what was not asked for; a result file is no result of a GPU."""
    done, found, rows = run(tmp_path, '--only', 'nvrtc', 'nvcc', 'memory_bf16')
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(rows) == set(STEPS) and found['dry'] and found['machine'] == 'no GPU'
    assert rows['memory_bf16']['outcome'] == 'ok'
    assert json.loads((tmp_path / 'memory_bf16.json').read_text())['results'][0]['dtype'] == 'bfloat16'
    assert {rows[name]['outcome'] for name in STEPS if name != 'memory_bf16'} == {'not run'}
    assert rows['nvrtc']['remark'] == 'there is no GPU' and rows['R06']['remark'] == 'not asked for'
    text = (tmp_path / 'summary.md').read_text()
    assert 'nothing of this is a result' in text and '| R06 | not run |' in text


def test_failures_and_wheels(tmp_path):
    """It goes on behind a step that fails, and says so at the end."""
    (tmp_path / 'wheels').mkdir()
    (tmp_path / 'wheels' / 'broken-1-py3-none-any.whl').write_text('no wheel')
    done, _, rows = run(tmp_path / 'out', '--only', 'wheels', 'nvrtc', WHEELS=str(tmp_path / 'wheels'))
    assert done.returncode == 1
    assert rows['wheels']['outcome'] == 'failed' and 'wheels.log' in rows['wheels']['remark']
    assert rows['nvrtc']['outcome'] == 'not run' and len(rows) == len(STEPS)


def test_time_runs_out(tmp_path):
    _, _, rows = run(tmp_path, BUDGET='1')
    assert {row['outcome'] for row in rows.values()} == {'not run'}
    assert rows['R06']['remark'] == 'no time was left'


@pytest.mark.slow
def test_every_step(tmp_path):
    done, _, rows = run(tmp_path)
    assert done.returncode == 0, (tmp_path / 'summary.md').read_text()
    ran = set(STEPS) - {'wheels', 'nvrtc', 'nvcc'}
    assert {name for name, row in rows.items() if row['outcome'] == 'ok'} == ran
