"""What trainings from configs are watched with, and loss scaling that needs no GPU."""

from functools import partial
from typing import ClassVar
from unittest import mock

import torch
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS


@HOOKS.register_module()
class Losses(Hook):
    """Keeps losses and their scale by iteration and epoch; ends the training like a kill in iteration ``stop``."""

    priority = 'LOWEST'
    found: ClassVar[dict] = {}

    def __init__(self, stop: int = 0):
        self.stop = stop

    def before_train(self, runner):
        """Before a training."""
        Losses.found = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """After an iteration."""
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        scale = scaler.state_dict() if scaler else {}
        Losses.found[runner.iter, runner.epoch] = {**{k: float(v) for k, v in outputs.items()}, **scale}
        if runner.iter + 1 == self.stop:
            raise KeyboardInterrupt


@OPTIM_WRAPPERS.register_module()
class ScaledOnCPU(AmpOptimWrapper):
    """mmengine's wrapper with a loss scaler of the CPU, in bfloat16; the scale grows every other step."""

    def __init__(self, **settings):
        scaler = partial(torch.amp.GradScaler, 'cpu')
        with (
            mock.patch.object(amp_optimizer_wrapper, 'is_cuda_available', lambda: True),
            mock.patch.object(amp_optimizer_wrapper, 'GradScaler', scaler),
        ):
            super().__init__(dict(init_scale=4.0, growth_interval=2), 'bfloat16', **settings)
