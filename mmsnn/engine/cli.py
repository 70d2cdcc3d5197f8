"""What the command lines of tools/train.py and tools/test.py share."""

import argparse
import os
import os.path as osp
from datetime import timedelta

import torch
from mmengine.config import Config
from mmengine.dist import is_distributed
from mmengine.runner import Runner

from mmsnn.building import read
from mmsnn.checkpoints.loading import CheckMatch, check_source, install_safe_loading

from . import console
from .options import add_cfg_options, apply_options
from .reading import read_annotations_safely
from .unreadable import NamesImages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every tool with a runner has."""
    parser.add_argument('--work-dir', help='folder of logs and results; default: work_dirs/NAME_OF_CONFIG')
    add_cfg_options(parser)
    parser.add_argument(
        '--verbose', action='store_true', help='environment, config and hooks on the console, not in the log file alone'
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torch.distributed.launch passes it; torchrun sets LOCAL_RANK instead
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def read_config(args: argparse.Namespace) -> Config:
    """The config ``args.config`` (a file, or ``mmsnn::...``) with the shared options worked in.

    Raises:
        FileNotFoundError: no such config.
        ValueError: FSDP is asked for where it cannot work, or ``sync_bn`` where nothing reads it.
        RuntimeError: a distributed launch that this machine cannot serve.
    """
    read_annotations_safely()
    cfg = read(args.config)
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
    """The runner of ``cfg``, which reads checkpoints safely and refuses those that do not fit.

    Unless ``verbose``, environment, config and hooks go to the log file alone.

    Raises:
        FileNotFoundError: there is no file at ``load_from``.
    """
    check_source(cfg)
    read_annotations_safely()
    install_safe_loading()
    runner = console.build(cfg, verbose)
    runner.register_hook(CheckMatch())
    runner.register_hook(NamesImages())
    return runner


def _launch_on_cpu(cfg: Config) -> None:
    """Start gloo, because mmengine's launchers ask for a GPU even where the backend needs none."""
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
            # its configs leave these to its tools
            loader.setdefault('collate_fn', dict(type='default_collate'))
            loader.setdefault('pin_memory', torch.cuda.is_available())
            loader.setdefault('persistent_workers', True)
        if loader.get('num_workers', 0) == 0:
            # torch refuses to keep workers that do not exist; bases ask for it
            loader.persistent_workers = False
