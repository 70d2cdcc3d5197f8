"""Checkpoints that a kill, a full disk or a crash in the middle of saving cannot take away."""

import os
import os.path as osp
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook

from mmsnn.registry import HOOKS

# what is being written; a name that no search for checkpoints finds
PART = '.part'
# what a training saves when it is told to leave
INTERRUPTED = 'interrupted.pth'


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's checkpoint hook, with files that are whole or not there.

    A checkpoint is written beside its place, flushed to the disk and renamed; then the pointer ``last_checkpoint``
    follows in the same way, and only then the files go that ``max_keep_ckpts`` or a new best one make superfluous. So a
    process that is killed at any moment leaves the checkpoint before, also where one alone is kept. In any config of
    OpenMMLab::

        default_hooks = dict(checkpoint=dict(type='mmsnn.SafeCheckpointHook', interval=1, max_keep_ckpts=1))

    Files on remote storage are written as mmengine does; what is superfluous goes last there, too.

    Args:
        kwargs: as for mmengine's CheckpointHook.

    Raises:
        OSError: in saving, for instance because the disk is full; the message names the checkpoint that is still there.
    """

    def before_train(self, runner) -> None:
        """Take the runner's saving over, and sweep up what a killed process left half written."""
        super().before_train(runner)
        self.file_backend = _RemovesLater(self.file_backend)
        self.local = isinstance(self.file_backend.inner, LocalBackend)
        self._save = runner.save_checkpoint
        runner.save_checkpoint = self._save_whole
        if self.local and is_main_process():
            for left in Path(self.out_dir).glob(f'.*{PART}'):
                left.unlink()

    def after_train(self, runner) -> None:
        """Publish what mmengine's publishes, and give the saving back."""
        super().after_train(runner)
        runner.save_checkpoint = self._save

    def _save_whole(self, out_dir: str, filename: str, *args, **kwargs) -> None:
        """`Runner.save_checkpoint`; the file appears under its name once it is whole."""
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
        """Save, point to what was saved, and then remove what is no longer to be kept."""
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
            # this checkpoint takes its place
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
        super()._save_best_checkpoint(runner, metrics)
        if is_main_process():
            self.file_backend.remove_now(keep=self.last_ckpt)


class _RemovesLater:
    """A file backend that collects what is to be removed until `remove_now`."""

    def __init__(self, inner):
        self.inner = inner
        self.waiting: list[str] = []

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def remove(self, path: str) -> None:
        self.waiting.append(path)

    rmtree = remove

    def remove_now(self, keep: str | None) -> None:
        """Remove what was collected, but not ``keep``."""
        waiting, self.waiting = self.waiting, []
        for path in waiting:
            if path == keep:
                continue
            if self.inner.isfile(path):
                self.inner.remove(path)
            elif self.inner.isdir(path):
                # what DeepSpeed saves
                self.inner.rmtree(path)


def publish(part: Path, path: Path) -> None:
    """Give the whole file ``part`` the name ``path``; after a power cut there is the one or what was there before."""
    with open(part, 'rb') as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _without(path: Path, error: OSError) -> OSError:
    """The error with what it means for the training."""
    pointer = path.parent / 'last_checkpoint'
    try:
        left = pointer.read_text().strip()
    except OSError:
        left = ''
    there = f'{left} is still there, and --resume goes on from it' if osp.isfile(left) else 'there is no checkpoint yet'
    return OSError(error.errno, f'{path.name} was not saved ({error.strerror or error}); {there}', str(path))
