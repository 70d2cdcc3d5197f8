"""Trainings that are killed at random and resumed, for tests/reliability/test_soak.py: ``python soak.py FOLDER``.

Children are forked from this process, where everything is imported already and nothing was trained: autograd's threads,
which other tests may have started in theirs, do not survive a fork.
"""

import os
import random
import shutil
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

import cli
import torch

from mmsnn.engine.resuming import newest_whole

CONFIG = """
_base_ = 'detector.py'
model = dict(
    _delete_=True, type='mmsnn.Distiller', student=_base_.model, teacher=_base_.model,
    losses=dict(loss_feature=dict(
        type='FeatureMSE', student='backbone.layer4', teacher='backbone.layer4', weight=1.0)))
train_dataloader = dict(
    num_workers=1, persistent_workers=True, dataset=dict(pipeline=[
        dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
        dict(type='RandomResize', scale=[(48, 48), (64, 64)], keep_ratio=False), dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs')]))
custom_hooks = [dict(type='mmsnn.DistillHook'), dict(type='EMAHook')]
default_hooks = dict(checkpoint=dict(interval=3, by_epoch=False, max_keep_ckpts=1))
param_scheduler = dict(type='CosineAnnealingLR', T_max=12, by_epoch=False)
train_cfg = dict(max_epochs=3)
"""


def in_child(log, *args) -> int:
    """The process id of a forked process that trains, with its workers in a group of its own."""
    child = os.fork()
    if child:
        return child
    os.setpgid(0, 0)
    code = 1
    with suppress(BaseException):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        os.dup2(1, 2)
        try:
            cli.main('train', *args)
            code = 0
        except SystemExit as left:
            code = left.code
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
    os._exit(code)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def soak(tmp_path: Path) -> int:
    """Train twenty times to the end, with kills between; the number of kills. AssertionError where weights differ."""
    cli.write_detector(tmp_path, images=8)
    config, log, work = tmp_path / 'soak.py', tmp_path / 'log', tmp_path / 'run'
    config.write_text(CONFIG)
    start = time.monotonic()
    assert ended(in_child(log, config, '--work-dir', tmp_path / 'whole')) == 0, log.read_text()[-3000:]
    seconds = time.monotonic() - start
    expected = newest_whole(tmp_path / 'whole')[1]
    assert expected['meta']['iter'] == 12
    chance, kills = random.Random(1), 0
    for number in range(20):
        tries = 0
        while True:
            child = in_child(log, config, '--work-dir', work, '--resume')
            # the fifth is left alone
            if tries < 4:
                time.sleep(chance.uniform(0.2, 0.9) * seconds)
                # its workers, too
                with suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
            code = ended(child)
            assert code in (0, -signal.SIGKILL), f'training {number} left with {code}: {log.read_text()[-3000:]}'
            if code == 0:
                break
            tries += 1
        kills += tries
        content = newest_whole(work)[1]
        assert content['meta']['iter'] == 12
        for kind in ('state_dict', 'ema_state_dict'):
            assert content[kind].keys() == expected[kind].keys()
            for name, value in expected[kind].items():
                assert torch.equal(content[kind][name], value), f'training {number}: {name} after {tries} kills'
        shutil.rmtree(work)
    return kills


if __name__ == '__main__':
    print(f'kills: {soak(Path(sys.argv[1]))}')
