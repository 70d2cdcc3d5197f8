"""The options that tools with a runner share, such as tools/train.py and tools/test.py."""

import argparse
import os
import os.path as osp
import time
from datetime import timedelta

import torch
from mmengine.config import Config
from mmengine.dist import is_distributed
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

from mmsnn.building import read
from mmsnn.checkpoints.loading import CheckMatch, check_source, install_safe_loading
from mmsnn.parts import parts_named

from . import console
from .options import add_cfg_options, apply_options, warn_of_misspelt_names
from .reading import read_annotations_safely
from .unreadable import NamesImages

# what is said before the run of the last config that was read has a log file
_early: console.Early | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every tool with a runner has."""
    parser.add_argument('--work-dir', help='folder of logs and results; default: work_dirs/NAME_OF_CONFIG')
    add_cfg_options(parser)
    parser.add_argument(
        '--verbose', action='store_true', help='show environment, config and hooks on the console, not only in the log'
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torch.distributed.launch passes this option; torchrun sets LOCAL_RANK instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def read_config(args: argparse.Namespace) -> Config:
    """Read the config ``args.config`` (a file, or ``mmsnn::...``) and apply the shared options to it.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: the config has no model, FSDP is set without FlexibleRunner, or ``sync_bn`` with a FlexibleRunner,
            which does not read it.
        RuntimeError: this machine does not support the launcher.
    """
    global _early
    read_annotations_safely()
    if _early is not None:
        _early.write_to(None)
    _early = console.Early()
    cfg = read(args.config)
    if 'model' not in cfg:
        raise ValueError(f'{args.config} has no model: is it a base of other configs?')
    warn_of_misspelt_names(cfg)
    if args.cfg_options:
        apply_options(cfg, args.cfg_options)
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('work_dirs', osp.splitext(osp.basename(args.config))[0])
    cfg.launcher = args.launcher
    if 'FullySharded' in str((cfg.get('model_wrapper_cfg') or {}).get('type')):
        raise ValueError(
            'model_wrapper_cfg.type: the ordinary runner initialises weights after they were sharded, which fails. For '
            "FSDP set runner_type='FlexibleRunner' and strategy=dict(type='mmsnn.FSDPStrategy') instead"
        )
    if cfg.get('sync_bn') and cfg.get('runner_type') == 'FlexibleRunner':
        raise ValueError(f'sync_bn: a FlexibleRunner does not read it, set strategy.sync_bn={cfg.sync_bn!r} instead')
    if args.launcher != 'none':
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
        if not torch.cuda.is_available():
            _launch_on_cpu(cfg)
    complete_loaders(cfg)
    return cfg


def build_runner(cfg: Config, verbose: bool = False) -> Runner:
    """Build the runner of ``cfg``, which reads checkpoints safely and refuses those that do not fit.

    Unless ``verbose``, environment, config and hooks are written only to the log file.

    Raises:
        FileNotFoundError: there is no file at ``load_from``.
        ValueError, TypeError: see `parts_named`.
    """
    check_source(cfg)
    drawing = cfg.get('visualizer') or {}
    if Visualizer.check_instance_created(drawing.get('name', '')):
        # An earlier run of this process has a visualizer of that name, and would get what this one writes.
        drawing.pop('name')
    # mmengine names a run by its second: a run of the same second would get this one's logger, and no log file.
    while MMLogger.get_current_instance().instance_name.endswith(time.strftime('%Y%m%d_%H%M%S')):
        time.sleep(0.05)
    read_annotations_safely()
    install_safe_loading()
    with parts_named(cfg):
        runner = console.build(cfg, verbose)
    if _early is not None:
        _early.write_to(runner.logger)
    runner.register_hook(CheckMatch())
    runner.register_hook(NamesImages())
    return runner


def _launch_on_cpu(cfg: Config) -> None:
    """Start gloo, because mmengine's launchers need a GPU even if the backend does not."""
    if cfg.launcher != 'pytorch':
        raise RuntimeError(f'--launcher {cfg.launcher} needs a GPU: on CPUs use torchrun and --launcher pytorch')
    if not is_distributed():
        seconds = ((cfg.get('env_cfg') or {}).get('dist_cfg') or {}).get('timeout')
        torch.distributed.init_process_group('gloo', timeout=seconds and timedelta(seconds=seconds))
    wrapper = cfg.get('model_wrapper_cfg') or dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    cfg.model_wrapper_cfg = {**wrapper, 'device_ids': None}


def complete_loaders(cfg: Config) -> None:
    for part in ('train', 'val', 'test'):
        loader = cfg.get(f'{part}_dataloader')
        if not loader:
            continue
        if cfg.get('default_scope') == 'mmpretrain':
            # mmpretrain's configs leave these settings to its tools.
            loader.setdefault('collate_fn', dict(type='default_collate'))
            loader.setdefault('pin_memory', torch.cuda.is_available())
            loader.setdefault('persistent_workers', True)
        if loader.get('num_workers', 0) == 0:
            # torch refuses persistent workers without workers, but base configs may set them.
            loader.persistent_workers = False
