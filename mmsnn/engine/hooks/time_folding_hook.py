"""A check before training that the inputs of neurons hold time steps, and those of ordinary heads do not."""

import logging
from contextlib import nullcontext

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

from mmsnn.layers import TimeAware, TimeFoldingError, blank_image, evaluating, get_time_steps
from mmsnn.neurons import Neuron
from mmsnn.registry import HOOKS


def check_time_folding(model: nn.Module) -> None:
    """Run one blank image and check that the input of every neuron is ``[T*1, ...]``; the model is not changed.

    Without this check, a neuron in an ANN part, such as ``act_cfg=dict(type='mmsnn.LIF')`` in a neck after a backbone
    with a readout, would take the images of a batch for time steps. An ordinary head would take the time steps of a
    backbone without a readout for images.

    Args:
        model: a task model (with ``extract_feat``) or a backbone.

    Raises:
        TimeFoldingError: time is not folded into the input of a neuron, or is folded into that of an ordinary head; the
            message names the module.
        ValueError: backbone, neck and head have different T.
    """
    get_time_steps(model)
    neurons = {name: m for name, m in model.named_modules() if isinstance(m, Neuron)}
    handles = [m.register_forward_pre_hook(_check(name)) for name, m in neurons.items()]
    try:
        if neurons:
            _forward_blank(model)
    finally:
        for handle in handles:
            handle.remove()


def _check(name: str):
    def hook(module, inputs):
        shape = tuple(inputs[0].shape)
        if shape[0] % module.T:
            raise TimeFoldingError(
                f'{name} ({type(module).__name__}, T={module.T}) is given {shape} for one image: time is not folded '
                "into it. Set backbone.readout='none' for spiking necks and heads, or give this layer an ordinary "
                'activation'
            )

    return hook


def _forward_blank(model: nn.Module) -> None:
    for size in (64, 224):
        try:
            with evaluating(model), torch.random.fork_rng():
                maps = getattr(model, 'extract_feat', model)(blank_image(model, size))
            _check_heads(model, maps)
            return
        except TimeFoldingError:
            raise
        # A backbone that refuses this size of images does not tell anything about time folding.
        except Exception as error:
            reason = error
    print_log(f'time folding was not checked: {reason}', logger='current', level=logging.WARNING)


def _check_heads(model: nn.Module, maps) -> None:
    """Raise TimeFoldingError if an ordinary head gets several maps for one image."""
    while isinstance(maps, tuple | list) and maps:
        maps = maps[-1]
    heads = {name: m for name, m in model.named_children() if name.endswith('head') and m is not None}
    steps = get_time_steps(model)
    if not isinstance(maps, torch.Tensor) or len(maps) == 1 or len(maps) != steps:
        return
    if heads and not any(isinstance(m, TimeAware) for head in heads.values() for m in head.modules()):
        name, head = next(iter(heads.items()))
        raise TimeFoldingError(
            f'{name} ({type(head).__name__}) is given {tuple(maps.shape)} for one image: it would take the {steps} '
            "time steps for images. Set backbone.readout='mean' (and the neck's), or take a spiking head"
        )


@HOOKS.register_module()
class TimeFoldingHook(Hook):
    """Runs `check_time_folding` before the first iteration; ``tools/train.py`` adds it to every run."""

    def before_train(self, runner) -> None:
        model = runner.model
        # Only inside this context are FSDP's weights complete.
        whole = FSDP.summon_full_params(model, writeback=False) if isinstance(model, FSDP) else nullcontext()
        with whole:
            check_time_folding(model.module if is_model_wrapper(model) else model)
