"""A check before training: is time folded into the input of every neuron?"""

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import nn

from mmsnn.neurons import Neuron
from mmsnn.registry import HOOKS


def check_time_folding(model: nn.Module, size: int = 64) -> None:
    """Forward one blank image and see that every neuron is given ``[T*1, ...]``.

    A neuron in an ANN part, say ``act_cfg=dict(type='mmsnn.LIF')`` in a neck behind a backbone that reads its rates
    out, would take the images of a batch for time steps, in silence.

    Args:
        model: a task model (with ``extract_feat``) or a backbone.
        size: height and width of the image, in pixels.

    Raises:
        ValueError: a neuron's input is not folded; the message names the module.
    """

    def check(name):
        def hook(module, inputs):
            if inputs[0].shape[0] % module.T or inputs[0].shape[0] == 1 < module.T:
                raise ValueError(
                    f'{name} ({type(module).__name__}, T={module.T}) is given {tuple(inputs[0].shape)} for one image: '
                    "time is not folded into it. Set backbone.readout='none' for spiking necks and heads, or give "
                    'this layer an ordinary activation'
                )

        return hook

    handles = [m.register_forward_pre_hook(check(n)) for n, m in model.named_modules() if isinstance(m, Neuron)]
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            image = torch.zeros(1, first.in_channels, size, size, device=first.weight.device)
            getattr(model, 'extract_feat', model)(image)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode


@HOOKS.register_module()
class TimeFoldingHook(Hook):
    """Runs `check_time_folding` before the first iteration; ``tools/train.py`` adds it to every run."""

    def before_train(self, runner) -> None:
        check_time_folding(runner.model.module if is_model_wrapper(runner.model) else runner.model)
