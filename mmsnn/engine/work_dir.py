"""The work dir of a training: it belongs to one training at a time, and files of another one are set aside."""

import logging
import os
import re
from contextlib import suppress
from itertools import count
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log

from .resuming import checkpoints
from .unreadable import FILE

try:
    import fcntl
except ImportError:  # pragma: no cover  Windows has no such locks
    fcntl = None

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
# Where launchers tell a process its number; the first one holds the folder for all.
RANKS = 'RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'

_held: set[int] = set()


def _forget() -> None:
    """Workers that load data outlive a killed training by seconds, and must not hold its folder."""
    while _held:
        with suppress(OSError):
            os.close(_held.pop())


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_forget)


class WorkDir(Hook):
    """Holds the work dir of a training as a context, and as a hook sets aside what another training left there.

    Files move when the training begins, after its model, data and weights have been found good: checkpoints,
    ``last_checkpoint``, measurements, the report and the folders of logs move to ``earlier_1`` and so on inside the
    work dir, and the log says so.

    Args:
        cfg: the config of the training.

    Raises:
        ValueError: another training runs in this folder; or it holds another training, and this one starts from a
            checkpoint in it or has several processes.
        OSError: the work dir is not writable.
    """

    # before any hook that writes
    priority = 'HIGHEST'

    def __init__(self, cfg: Config):
        self.folder, self.resumes = Path(cfg.work_dir), bool(cfg.get('resume'))
        self.handle: int | None = None
        try_writing(self.folder)
        self._hold(cfg)
        there = [] if self.resumes else checkpoints(self.folder)
        begins = cfg.get('load_from')
        inside = begins and Path(begins).expanduser().resolve().parent == self.folder.resolve()
        if there and (cfg.get('launcher', 'none') != 'none' or inside):
            self._release()
            raise ValueError(
                f'work_dir: {self.folder} holds another training ({there[0].name}). Continue it (--resume), choose '
                'another folder (--work-dir FOLDER), or move this one away'
            )

    def __enter__(self) -> 'WorkDir':
        return self

    def __exit__(self, *_) -> None:
        self._release()

    def _hold(self, cfg: Config) -> None:
        first = next((os.environ[name] for name in RANKS if name in os.environ), '0') == '0'
        if fcntl is None or not (first or cfg.get('launcher', 'none') == 'none'):
            return
        self.handle = os.open(self.folder, os.O_RDONLY)
        _held.add(self.handle)
        try:
            # the lock ends with the process, however that ends
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._release()
            raise ValueError(
                f'work_dir: another training runs in {self.folder}. Choose another folder (--work-dir FOLDER), or wait '
                'for its end'
            ) from None
        except OSError:
            # a file system without locks
            self._release()

    def _release(self) -> None:
        if self.handle is not None:
            _held.discard(self.handle)
            os.close(self.handle)
            self.handle = None

    def before_train(self, runner) -> None:
        """Set another training's files aside."""
        if self.resumes or not checkpoints(self.folder):
            return
        aside = next(path for n in count(1) if not (path := self.folder / f'earlier_{n}').exists())
        aside.mkdir()
        for path in list(self.folder.iterdir()):
            logs = re.fullmatch(r'\d{8}_\d{6}', path.name) and path.name != runner.timestamp
            if path.suffix == '.pth' or path.name in WRITTEN or logs:
                path.rename(aside / path.name)
        print_log(
            f'work_dir: {self.folder} held another training, which is now in {aside}; to continue a training, use '
            '--resume',
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
