"""R13: two processes that are told to leave save together, and go on as if they had not been."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import cli
import pytest
import torch

from mmsnn.checkpoints.reading import load_file

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='gloo is the backend where there is no GPU')

CONFIG = """
_base_ = 'classifier.py'
model = dict(data_preprocessor=dict(num_classes=5), train_cfg=dict(augments=dict(type='Mixup', alpha=0.8)))
train_dataloader = dict(batch_size=2, num_workers={workers}, persistent_workers={workers} > 0, dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'), dict(type='RandomResizedCrop', scale=32), dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs')]))
custom_hooks = [dict(type='signals.Sends', name={name!r}), dict(type='EMAHook')]
default_hooks = dict(checkpoint=dict(interval=10))
train_cfg = dict(max_epochs=3)
"""


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """Sixteen images, four iterations an epoch; and the end of a training that nothing disturbed."""
    home = tmp_path_factory.mktemp('home')
    cli.write_classifier(home, images=16)
    done = train(home, 'whole', name='')
    assert done.returncode == 0, done.stdout[-4000:]
    return home


def train(home: Path, work: str, *more: str, name: str, workers: int = 0):
    config = home / f'{work}{name}{workers}.py'
    config.write_text(CONFIG.format(name=name, workers=workers))
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    return subprocess.run(
        [cli.ROOT / 'tools/dist_train.sh', config, '2', '--work-dir', home / work, *more],
        env=cli.own_environment(PATH=f'{Path(sys.executable).parent}:{os.environ["PATH"]}', PORT=str(port)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
    )


def losses(home: Path, work: str) -> dict[tuple[int, int], str]:
    """What the logs say of each iteration."""
    found = {}
    for log in sorted((home / work).glob('*/*.log')):
        for epoch, batch, loss in re.findall(r'Epoch\(train\) +\[(\d+)\]\[(\d+)/4\].*?loss: (\S+)', log.read_text()):
            found[int(epoch), int(batch)] = loss
    return found


@pytest.mark.parametrize('name, workers', [('SIGTERM', 0), ('SIGUSR1', 1)])
def test_a_signal_to_one_of_two(home, name, workers):
    """In the middle of an epoch; the other process is told by the first."""
    work = f'parted_{name}'
    done = train(home, work, name=name, workers=workers)
    assert done.returncode != 0 and (home / work / 'interrupted.pth').is_file(), done.stdout[-4000:]
    content = load_file(home / work / 'interrupted.pth')
    assert content['meta']['iter'] == 6
    done = train(home, work, '--resume', name='', workers=1 - workers)
    assert done.returncode == 0, done.stdout[-4000:]
    whole, parted = losses(home, 'whole'), losses(home, work)
    assert len(whole) == 12 and parted == whole
    assert not (home / work / 'interrupted.pth').exists()
    expected, found = (load_file(home / one / 'epoch_3.pth') for one in ('whole', work))
    for kind in ('state_dict', 'ema_state_dict'):
        for key, value in expected[kind].items():
            assert torch.equal(found[kind][key], value), (kind, key)
