"""R15: trained, killed at random, resumed, to the end, twenty times, through the command line."""

import multiprocessing
import os
import random
import shutil
import signal
import time
from contextlib import suppress

import cli
import pytest
import torch

from mmsnn.engine.resuming import newest_whole

pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')

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


# Children are forked from a process that has everything imported and has trained nothing: autograd's threads, which
# other tests may have started in this one, do not survive a fork.
FRESH = multiprocessing.get_context('forkserver')
FRESH.set_forkserver_preload(['cli', 'mmdet.models', 'mmsnn'])


def started(log, *args) -> multiprocessing.Process:
    """A process that trains, with its workers in a group of its own."""
    child = FRESH.Process(target=cli.train_in_a_group, args=(log, *args))
    child.start()
    return child


def ended(child: multiprocessing.Process) -> int:
    child.join()
    return child.exitcode


@pytest.mark.slow
def test_twenty_times(tmp_path, record_property):
    """Distilled, with an average of the weights, augmentation, a schedule, a worker, and one checkpoint kept."""
    cli.write_detector(tmp_path, images=8)
    config, log, work = tmp_path / 'soak.py', tmp_path / 'log', tmp_path / 'run'
    config.write_text(CONFIG)
    start = time.monotonic()
    assert ended(started(log, config, '--work-dir', tmp_path / 'whole')) == 0, log.read_text()[-3000:]
    seconds = time.monotonic() - start
    expected = newest_whole(tmp_path / 'whole')[1]
    assert expected['meta']['iter'] == 12
    chance, kills = random.Random(1), 0
    for number in range(20):
        tries = 0
        while True:
            child = started(log, config, '--work-dir', work, '--resume')
            # the fifth is left alone
            if tries < 4:
                time.sleep(chance.uniform(0.2, 0.9) * seconds)
                # its workers, too
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
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
    record_property('tries', kills)
    assert kills >= 20
