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


class _Reached(Exception):
    """The first convolution that an image meets."""


def image_channels(model: nn.Module) -> int:
    """Channels of the images that ``model`` takes, by its first convolution.

    An image is sent just so far: modules stand in the order of their making, and what lies in front may fold pixels
    into channels (the stem of YOLOX: 12 of 3).

    Raises:
        ValueError: there is no convolution.
    """
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    if not convs:
        raise ValueError(f'{type(model).__name__} has no convolution: its input is no image')
    fewest = min(m.in_channels for m in [m for m in convs if m.groups == 1] or convs)
    met = []

    def stop(conv: nn.Conv2d, inputs: tuple) -> None:
        met.append((conv.in_channels, inputs[0].shape[1]))
        raise _Reached

    backbone = getattr(model, 'backbone', model)
    hooks = [m.register_forward_pre_hook(stop) for m in convs]
    try:
        with evaluating(model):
            backbone(next(model.parameters()).new_zeros(1, fewest, 64, 64))
    # whatever stands in front of it and refuses such an image, the fewest channels are the best guess
    except Exception:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    takes, given = met[0] if met else (fewest, fewest)
    return takes * fewest // given


def blank_image(model: nn.Module, size: int) -> Tensor:
    """One image ``[1, C, size, size]`` of zeros, where ``model``'s parameters are, and of their type."""
    return next(model.parameters()).new_zeros(1, image_channels(model), size, size)
