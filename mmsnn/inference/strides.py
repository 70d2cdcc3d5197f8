"""Strides of maps, contiguous or channels last."""

import functools

import torch
from torch import Tensor


def is_last(x: Tensor) -> bool:
    """Whether the memory format is channels last, and not contiguous."""
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


# these are asked for at every layer, and PyTorch takes up to a tenth of a millisecond for a few numbers
@functools.lru_cache(maxsize=4096)
def lies_last(size, stride) -> bool:
    """Whether a tensor with this ``size`` and ``stride`` is in channels-last memory format, and not contiguous."""
    return is_last(torch.empty_strided(size, stride, device='meta'))


@functools.lru_cache(maxsize=4096)
def strides(size, last: bool) -> tuple[int, ...]:
    """Of a new tensor, channels last or contiguous."""
    order = (1, 3, 2, 0) if last else range(len(size) - 1, -1, -1)
    out, step = [0] * len(size), 1
    for i in order:
        out[i], step = step, step * max(1, size[i])
    return tuple(out)
