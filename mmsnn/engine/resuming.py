"""Choosing the checkpoint from which a training resumes, and comparing its config."""

import logging
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log

from mmsnn.checkpoints.claims import check_archive, stand_in
from mmsnn.checkpoints.loading import check_source
from mmsnn.checkpoints.origin import differences, read_text
from mmsnn.checkpoints.reading import load_file

# Keys that may differ without a warning, because they do not change the training.
FREE = (
    'work_dir', 'load_from', 'resume', 'launcher', 'log_level', 'log_processor', 'visualizer', 'vis_backends',
    'env_cfg', 'test_', 'val_', 'tta_', 'custom_imports', 'default_hooks', 'custom_hooks', 'randomness', 'gpu_ids',
    'experiment_name',
)  # fmt: skip


def checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoints of a training, newest first, without best checkpoints, which cannot be resumed.

    The checkpoint in ``last_checkpoint`` may have any name. It may lie in another folder (the hook's ``out_dir``) only
    if this folder has no checkpoints, because ``last_checkpoint`` in a copy of a folder names the original.
    """
    paths = {p for p in Path(folder).glob('*.pth') if p.name.startswith(('epoch_', 'iter_', 'interrupted'))}
    with suppress(OSError, ValueError):
        last = Path(Path(folder, 'last_checkpoint').read_text().strip())
        here = Path(folder, last.name)
        if here.is_file():
            paths.add(here)
        elif not paths and last.is_file():
            paths.add(last)
    return sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def damage(path: Path) -> str:
    """The fault of a checkpoint file; empty if it can be read completely and its checksums are right."""
    if Path(path).is_dir():
        return f'it is {stand_in(path)}'
    try:
        check_archive(path)
        # raises for what is no archive, of which there are no checksums
        zipfile.ZipFile(path).close()
        return ''
    # Damaged or hostile archives raise errors of many kinds.
    except Exception as error:
        return str(error) or type(error).__name__


def newest_whole(folder: str | Path) -> tuple[Path, Mapping] | None:
    """The newest checkpoint that can be read, with its content; None without checkpoints. The log lists skipped ones.

    Raises:
        ValueError: there are checkpoints, but none of them can be read.
    """
    reasons = []
    for path in checkpoints(folder):
        reason = damage(path)
        try:
            content = {} if reason else load_file(path)
            if not reason and not {'state_dict', 'optimizer', 'meta'} <= set(content):
                reason = 'it holds no state of a training, only ' + ', '.join(map(str, list(content)[:5]))
        except (OSError, ValueError) as error:
            reason = str(error)
        if not reason:
            return path, content
        reasons.append(f'{path}: {reason}')
        print_log(f'--resume skips {reasons[-1]}', logger='current', level=logging.WARNING)
    if reasons:
        raise ValueError(f'--resume: no checkpoint in {folder} can be read. ' + '; '.join(reasons))
    return None


def prepare_resume(cfg: Config) -> Config:
    """If ``cfg.resume`` is set, choose the checkpoint: ``load_from``, or the newest complete one. Returns ``cfg``.

    The seed is taken from the checkpoint, so that the data come in the same order as without the interruption. The log
    lists differences from the checkpoint's config.

    Raises:
        FileNotFoundError: there is no file at ``load_from``.
        ValueError: no checkpoint can be read, or it belongs to another optimizer.
    """
    check_source(cfg)
    source = cfg.get('load_from')
    if not cfg.get('resume') or (source and '://' in source):
        return cfg
    path, content = _checkpoint(source, cfg.work_dir)
    if path is None:
        cfg.resume = False
        return cfg
    cfg.load_from = str(path)
    meta = content.get('meta') or {}
    if meta.get('seed') is not None:
        cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': meta['seed']}
    if isinstance(meta.get('cfg'), str):
        compare(read_text(meta['cfg']), cfg.to_dict(), str(path))
    return cfg


def _checkpoint(source: str | None, folder: str) -> tuple[Path | None, Mapping]:
    """The file to resume from and its content; None without a checkpoint."""
    if source:
        path = Path(source).expanduser()
        reason = damage(path)
        if reason:
            raise ValueError(f'--resume: {source} cannot be read: {reason}')
        return path, load_file(path)
    newest = newest_whole(folder)
    if newest is None:
        aside = [path for earlier in sorted(Path(folder).glob('earlier_*')) for path in checkpoints(earlier)[:1]]
        newest_aside = max(aside, key=lambda path: path.stat().st_mtime, default=None)
        other = f'; that of an earlier one is {newest_aside}: --resume FILE continues it' if newest_aside else ''
        print_log(
            f'--resume: there is no checkpoint in {folder}, the training begins{other}',
            logger='current',
            level=logging.WARNING,
        )
        return None, {}
    return newest


def compare(before: Mapping, now: Mapping, source: str) -> None:
    """Log the differences of two configs; ValueError for another optimizer, whose state would not fit."""
    lines = [f'{key}: {old} -> {new}' for key, old, new in differences(before, now) if not key.startswith(FREE)]
    for line in lines:
        if line.startswith('optim_wrapper.optimizer.type'):
            raise ValueError(
                f'--resume: {source} was saved with another optimizer ({line}), whose state does not fit. Resume with '
                'the same one, or start from its weights: --cfg-options load_from=FILE without --resume'
            )
    if lines:
        shown = '; '.join(lines[:12]) + (f' and {len(lines) - 12} more' if len(lines) > 12 else '')
        print_log(f'--resume: the config is not that of {source}: {shown}', logger='current', level=logging.WARNING)
