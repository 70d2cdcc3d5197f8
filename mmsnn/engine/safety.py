"""The parts of mmengine that mmsnn's tools replace, so that a training loses nothing.

======================  ==============================  =====================================================
mmengine's              in its place                    because
======================  ==============================  =====================================================
CheckpointHook          `SafeCheckpointHook`            it deletes before it writes, and writes in place
EpochBasedTrainLoop,    `mmsnn.engine.loops`            random states are not kept, and the middle of an epoch
IterBasedTrainLoop                                      is taken for its beginning
(nothing)               `FiniteHook`                    NaN trains on and is saved
(nothing)               `InterruptHook`                 a signal loses what came after the last checkpoint
(nothing)               `mmsnn.engine.work_dir`         two trainings mix their files in one folder
LoadImageFromFile       `NamedImages` around it         errors name no file; one image that cannot be read ends all
pickle and YAML files   `mmsnn.engine.reading`          annotation and proposal files run code
checkpoint readers      `mmsnn.checkpoints.loading`     checkpoints run code, and misfits load in silence
======================  ==============================  =====================================================

In plain OpenMMLab configs each of them can be used by its type, for instance
``default_hooks = dict(checkpoint=dict(type='mmsnn.SafeCheckpointHook'))``.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.config import Config, ConfigDict

from mmsnn.building import type_name

from .resuming import checkpoints

# Errors of disks that are full, read-only or failing, or whose quota is used up.
DISK = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EIO)
LOOPS = {True: 'EpochBasedTrainLoop', False: 'IterBasedTrainLoop'}


def make_safe(cfg: Config) -> Config:
    """Replace mmengine's parts by mmsnn's in the config of a training; parts of other origin are kept."""
    # Other runners, for instance FSDP's, save checkpoints by their strategy.
    if cfg.get('runner_type', 'Runner') == 'Runner':
        hooks = cfg.setdefault('default_hooks', ConfigDict())
        checkpoint = hooks.setdefault('checkpoint', ConfigDict(type='CheckpointHook', interval=1))
        if checkpoint is not None and type_name(checkpoint) == 'CheckpointHook':
            checkpoint.type = 'mmsnn.SafeCheckpointHook'
    # A config without train_cfg is refused later.
    loop = cfg.get('train_cfg') or {}
    name = LOOPS[bool(loop.get('by_epoch', True))] if 'type' not in loop else loop.type
    if loop and isinstance(name, str) and name.rpartition('.')[2] in LOOPS.values():
        loop.pop('by_epoch', None)
        loop.type = f'mmsnn.{name.rpartition(".")[2]}'
    hooks = list(cfg.get('custom_hooks') or [])
    missing = [name for name in ('FiniteHook', 'InterruptHook') if not any(type_name(hook) == name for hook in hooks)]
    cfg.custom_hooks = hooks + [dict(type=f'mmsnn.{name}') for name in missing]
    return cfg


@contextmanager
def disk_errors_named(cfg: Config) -> Iterator[None]:
    """Context in which an error of the disk, for instance while logging, gets a message about its consequence.

    Raises:
        OSError: the work dir cannot be written to; the message names the checkpoint for resuming.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK or 'was not saved' in str(error):
            raise
        left = checkpoints(cfg.work_dir)
        there = f'--resume continues from {left[0]}' if left else 'there is no checkpoint yet'
        text = f'{error.strerror}: the training can no longer write to its work dir and ends; {there}'
        raise OSError(error.errno, text, str(cfg.work_dir)) from error
