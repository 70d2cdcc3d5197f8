"""The parts of mmengine that mmsnn's tools replace, so that a training loses nothing.

======================  ==============================  =====================================================
mmengine's              in its place                    because
======================  ==============================  =====================================================
CheckpointHook          `SafeCheckpointHook`            it deletes before it writes, and writes in place
EpochBasedTrainLoop,    `mmsnn.engine.loops`            random states are not kept, and the middle of an epoch
IterBasedTrainLoop                                      is taken for its beginning
(nothing)               `FiniteHook`                    NaN trains on and is saved
(nothing)               `InterruptHook`                 a signal loses what came after the last checkpoint
LoadImageFromFile       `NamedImages` around it         errors name no file; one image that cannot be read ends all
pickle and YAML files   `mmsnn.engine.reading`          annotation and proposal files run code
checkpoint readers      `mmsnn.checkpoints.loading`     checkpoints run code, and misfits load in silence
======================  ==============================  =====================================================

In plain OpenMMLab configs each of them can be used by its type, for instance
``default_hooks = dict(checkpoint=dict(type='mmsnn.SafeCheckpointHook'))``.
"""

import errno
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from mmsnn.building import type_name

from .resuming import checkpoints
from .unreadable import FILE

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


# What trainings and tests write into a work dir besides checkpoints and folders of logs.
WRITTEN = (
    'last_checkpoint',
    FILE,
    'benchmark.json',
    'time_steps.json',
    'early_exit.json',
    'report.html',
    'comparison.html',
)


def make_room(cfg: Config) -> None:
    """If the work dir holds another training, move it into a subfolder, so that the two never mix.

    Checkpoints, ``last_checkpoint``, measurements, the report and the folders of logs move to ``earlier_1`` and so on
    inside the work dir; the log says so.

    Raises:
        ValueError: this training starts from a checkpoint in that folder, or has several processes.
        OSError: the work dir is not writable.
    """
    folder = Path(cfg.work_dir)
    try_writing(folder)
    there = [] if cfg.get('resume') else checkpoints(folder)
    if not there:
        return
    begins = cfg.get('load_from')
    inside = begins and Path(begins).expanduser().resolve().parent == folder.resolve()
    if cfg.get('launcher', 'none') != 'none' or inside:
        raise ValueError(
            f'work_dir: {folder} holds another training ({there[0].name}). Continue it (--resume), choose another '
            'folder (--work-dir FOLDER), or move this one away'
        )
    aside = next(path for n in count(1) if not (path := folder / f'earlier_{n}').exists())
    aside.mkdir()
    for path in list(folder.iterdir()):
        if path.suffix == '.pth' or path.name in WRITTEN or re.fullmatch(r'\d{8}_\d{6}', path.name):
            path.rename(aside / path.name)
    print_log(
        f'work_dir: {folder} held another training, which is now in {aside}; to continue a training, use --resume',
        logger='current',
        level=logging.WARNING,
    )


def try_writing(folder: Path, key: str = 'work_dir', remedy: str = '--work-dir FOLDER') -> None:
    """Raise OSError with the config key or option unless files can be written to a folder."""
    path = folder / f'.{os.getpid()}.part'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(4096))
    except OSError as error:
        said = f'{key}: {folder} cannot be written ({error.strerror}): choose another one, {remedy}'
        raise OSError(error.errno, said) from error
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


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
