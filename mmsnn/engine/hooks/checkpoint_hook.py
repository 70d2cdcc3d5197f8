"""Saving checkpoints so that none is lost when a process is killed or a disk is full."""

import logging
import os
import os.path as osp
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log

from mmsnn.registry import HOOKS

# Suffix of a file that is being written, which no search for checkpoints finds.
PART = '.part'
# Name of the checkpoint of a training that a signal ends.
INTERRUPTED = 'interrupted.pth'


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's checkpoint hook, with checkpoints that are never incomplete.

    A checkpoint is written to a temporary file in its folder, flushed to the disk and renamed. The file
    ``last_checkpoint`` is updated in the same way, and only then are the checkpoints deleted that ``max_keep_ckpts`` or
    a new best checkpoint make superfluous. So a process that is killed at any moment leaves a complete checkpoint, even
    if only one is kept. It works in any config of OpenMMLab::

        default_hooks = dict(checkpoint=dict(type='mmsnn.SafeCheckpointHook', interval=1, max_keep_ckpts=1))

    Files on remote storage are written as by mmengine, and superfluous files are deleted last as well.

    Args:
        kwargs: arguments of mmengine's CheckpointHook.

    A metric of ``save_best`` that no validation gives is told once.

    Raises:
        OSError: saving fails, for instance because the disk is full; the message names the last complete checkpoint.
    """

    told = False

    def before_train(self, runner) -> None:
        """Replace the runner's method for saving, and delete incomplete files of a killed process."""
        super().before_train(runner)
        self.file_backend = _RemovesLater(self.file_backend)
        self.local = isinstance(self.file_backend.inner, LocalBackend)
        self._save = runner.save_checkpoint
        runner.save_checkpoint = self._save_whole
        if self.local and is_main_process():
            for left in Path(self.out_dir).glob(f'.*{PART}'):
                left.unlink()

    def after_train(self, runner) -> None:
        """As mmengine's hook; also restores the runner's method for saving."""
        super().after_train(runner)
        runner.save_checkpoint = self._save

    def _save_whole(self, out_dir: str, filename: str, *args, **kwargs) -> None:
        """As `Runner.save_checkpoint`; the file gets its name when it is complete."""
        if not self.local:
            self._save(out_dir, filename, *args, **kwargs)
            return
        path = Path(out_dir, filename)
        part = path.with_name(f'.{filename}{PART}')
        try:
            self._save(out_dir, part.name, *args, **kwargs)
            if is_main_process():
                publish(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise _without(path, error) from error

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict) -> None:
        """Save a checkpoint, update ``last_checkpoint``, and then delete checkpoints that are not to be kept."""
        if self.max_keep_ckpts > 0 and (not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step):
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                oldest = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
                self.file_backend.remove(self.file_backend.join_path(self.out_dir, oldest))
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            # The new checkpoint replaces that of an interruption.
            self.file_backend.remove(osp.join(runner.work_dir, INTERRUPTED))
            pointer = Path(runner.work_dir, 'last_checkpoint')
            part = pointer.with_name(f'.{pointer.name}{PART}')
            try:
                part.write_text(self.last_ckpt)
                publish(part, pointer)
            except OSError as error:
                raise _without(pointer, error) from error
            self.file_backend.remove_now(keep=self.last_ckpt)

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        wanted = [self.save_best] if isinstance(self.save_best, str) else self.save_best or ()
        lost = [key for key in wanted if key != 'auto' and key not in metrics]
        # A typing error should not cost what was trained.
        if metrics and lost and not self.told:
            self.told = True
            print_log(
                f'default_hooks.checkpoint.save_best={", ".join(lost)}: the validation gives no such metric, so no '
                f'checkpoint is kept as the best of it; it gives {", ".join(metrics)}',
                logger='current',
                level=logging.WARNING,
            )
        # mmengine passes over a metric that is None.
        metrics = {**metrics, **dict.fromkeys(lost)}
        super()._save_best_checkpoint(runner, metrics)
        if is_main_process():
            self.file_backend.remove_now(keep=self.last_ckpt)


class _RemovesLater:
    """A file backend that delays the removal of files until `remove_now`."""

    def __init__(self, inner):
        self.inner = inner
        self.waiting: list[str] = []

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def remove(self, path: str) -> None:
        self.waiting.append(path)

    rmtree = remove

    def remove_now(self, keep: str | None) -> None:
        """Remove the collected files, except ``keep``."""
        waiting, self.waiting = self.waiting, []
        for path in waiting:
            if path == keep:
                continue
            if self.inner.isfile(path):
                self.inner.remove(path)
            elif self.inner.isdir(path):
                # DeepSpeed saves folders.
                self.inner.rmtree(path)


def publish(part: Path, path: Path) -> None:
    """Rename the complete file ``part`` to ``path``; after a power cut, ``path`` is the new or the old file."""
    with open(part, 'rb') as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _without(path: Path, error: OSError) -> OSError:
    """The error with its consequence for the training."""
    pointer = path.parent / 'last_checkpoint'
    try:
        left = pointer.read_text().strip()
    except OSError:
        left = ''
    there = f'{left} is complete, and --resume continues from it' if osp.isfile(left) else 'there is no checkpoint yet'
    return OSError(error.errno, f'{path.name} was not saved ({error.strerror or error}); {there}', str(path))
