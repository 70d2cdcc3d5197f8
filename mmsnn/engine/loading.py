"""Safe loading of checkpoints in mmengine's runner, and a report on what fits."""

import functools
import logging
import os.path as osp
from collections.abc import Mapping

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader, get_torch_safe_globals
from torch import nn

from .checkpoint import find_state, load_file


def install_safe_loading() -> None:
    """From here on mmengine reads every checkpoint with ``weights_only=True``, without its fallback to running pickles.

    The text in ``meta['config']`` is dropped as well: resuming would execute it. Calling twice does no harm.
    """
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    if not hasattr(mmengine_checkpoint.load_url, '__wrapped__'):
        mmengine_checkpoint.load_url = _safely(mmengine_checkpoint.load_url)


def load_from_local(filename: str, map_location=None) -> dict:
    """The content of a checkpoint file, on the CPU whatever ``map_location``; its state dict under ``state_dict``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, holds objects that could run code, or no state dict.
    """
    path = osp.expanduser(filename)
    if not osp.isfile(path):
        raise FileNotFoundError(f'there is no checkpoint at {filename!r}')
    content = load_file(path)
    if 'state_dict' not in content:
        content = {'state_dict': find_state(content, filename)}
    return _without_config(content)


def _safely(load_url):
    @functools.wraps(load_url)
    def load(*args, **kwargs):
        with torch.serialization.safe_globals(get_torch_safe_globals()):
            return _without_config(load_url(*args, **{**kwargs, 'weights_only': True}))

    return load


def _without_config(content):
    if isinstance(content, Mapping) and isinstance(content.get('meta'), dict):
        content['meta'].pop('config', None)
    return content


class CheckMatch(Hook):
    """Compares the checkpoint ``path`` with the model before it is loaded for testing; see `check_match`."""

    def __init__(self, path: str):
        self.path = path

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        check_match(runner.model, checkpoint['state_dict'], self.path)


def check_match(model: nn.Module, state: Mapping, path: str) -> None:
    """Log which weights of ``model`` a checkpoint lacks, and which of its entries the model has no use for.

    Raises:
        ValueError: nothing fits, shapes differ, or weights of the backbone are missing; the message names ``path``.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    own = model.state_dict()
    state = {key.removeprefix('module.'): value for key, value in state.items()}
    name = type(model).__name__
    remedy = 'Give the checkpoint that was trained with this config, or the config that belongs to this checkpoint.'
    # files of old torch have no such counters
    missing = [key for key in own if key not in state and not key.endswith('num_batches_tracked')]
    unexpected = [key for key in state if key not in own]
    if len(unexpected) == len(state):
        raise ValueError(
            f'{path} fits nothing in {name}: it holds {_some(unexpected)}, the model {_some(list(own))}. {remedy}'
        )
    differing = [
        f'{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}'
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if differing:
        raise ValueError(f'{path} has other shapes than {name}: {_some(differing)}. {remedy}')
    backbone = [key for key in missing if key.startswith('backbone.')]
    if backbone:
        raise ValueError(f'{path} lacks weights of the backbone of {name}: {_some(backbone)}. {remedy}')
    for keys, what in ((missing, 'lacks, so that they stay random:'), (unexpected, 'holds without use:')):
        if keys:
            print_log(f'{path} {what} {_some(keys, 20)}', logger='current', level=logging.WARNING)


def _some(keys: list[str], shown: int = 3) -> str:
    return ', '.join(keys[:shown]) + (f' and {len(keys) - shown} more' if len(keys) > shown else '')
