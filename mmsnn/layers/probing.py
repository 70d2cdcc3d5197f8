"""How a network is asked what it takes and gives, without leaving a trace."""

from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module):
    """Within the context ``model`` is in evaluation and keeps no gradients; every module's mode is restored."""
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        for module, mode in modes.items():
            module.training = mode


def image_channels(model: nn.Module) -> int:
    """Channels of the images that ``model`` takes: the fewest that one of its convolutions reads, groups apart.

    The first convolution need not be the one that images meet first, since modules stand in the order of their making.

    Raises:
        ValueError: there is no convolution.
    """
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    if not convs:
        raise ValueError(f'{type(model).__name__} has no convolution: its input is no image')
    return min(m.in_channels for m in [m for m in convs if m.groups == 1] or convs)


def blank_image(model: nn.Module, size: int) -> Tensor:
    """One image ``[1, C, size, size]`` of zeros, where ``model``'s parameters are, and of their type."""
    return next(model.parameters()).new_zeros(1, image_channels(model), size, size)
