"""R15: trained, killed at random, resumed, to the end, twenty times, through the command line."""

import os
import subprocess
import sys

import cli
import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')


@pytest.mark.slow
def test_twenty_times(tmp_path, record_property):
    """Distilled, with an average of the weights, augmentation, a schedule, a worker, and one checkpoint kept."""
    command = [sys.executable, cli.ROOT / 'tests/support/soak.py', tmp_path]
    done = subprocess.run(command, env=cli.own_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    kills = int(done.stdout.rpartition('kills: ')[2])
    record_property('tries', kills)
    assert kills >= 20
