"""Running a network to learn the shapes of its inputs and outputs, without changing it."""

from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module):
    """Context in which ``model`` is in eval mode and gradients are off; the mode of every module is restored."""
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        for module, mode in modes.items():
            module.training = mode


class _Reached(Exception):
    """Raised by the first convolution that is called, to end the forward there."""


def image_channels(model: nn.Module) -> int:
    """Number of channels of the images that ``model`` takes, read from its first convolution.

    An image is run up to the first convolution that is called. The order of modules does not tell which one that is,
    and layers before it may fold pixels into channels (the stem of YOLOX makes 12 channels of 3). A network without
    convolutions, which cuts its images into patches, is taken to see colours: 3 channels.
    """
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    if not convs:
        return 3
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
    # If a layer before the first convolution refuses such an image, the fewest channels are the best guess.
    except Exception:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    takes, given = met[0] if met else (fewest, fewest)
    return takes * fewest // given


def blank_image(model: nn.Module, size: int) -> Tensor:
    """One image ``[1, C, size, size]`` of zeros, with the device and the type of ``model``'s parameters."""
    return next(model.parameters()).new_zeros(1, image_channels(model), size, size)
