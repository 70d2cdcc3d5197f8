"""Types and strides of maps, contiguous or channels last."""

import functools

import torch
from torch import Tensor

# what every map is, whatever the defaults of the process are
FLOAT32 = dict(dtype=torch.float32, device='cpu')


def is_last(x: Tensor) -> bool:
    """Whether PyTorch takes the memory format of ``x`` for channels last."""
    return lies_last(x.shape, x.stride())


# these are asked for at every layer
@functools.lru_cache(maxsize=4096)
def lies_last(size, stride) -> bool:
    """Whether PyTorch takes a tensor with this ``size`` and ``stride`` for channels last.

    It goes by strides alone, which tell also where the memory of both formats is the same, as in maps of one pixel.
    """
    if len(size) != 4 or stride[1] == 0 or 0 in size:
        return False
    least = 0
    for i in (1, 3, 2, 0):
        # maps of one pixel and one channel are of both formats
        if stride[i] < least or (i == 0 and least == stride[1]):
            return False
        least = stride[i] * max(1, size[i])
    return True


@functools.lru_cache(maxsize=4096)
def strides(size, last: bool) -> tuple[int, ...]:
    """Of a new tensor, channels last or contiguous."""
    order = (1, 3, 2, 0) if last else range(len(size) - 1, -1, -1)
    out, step = [0] * len(size), 1
    for i in order:
        out[i], step = step, step * max(1, size[i])
    return tuple(out)


@functools.lru_cache(maxsize=4096)
def preserved(size, stride) -> tuple[int, ...]:
    """Strides of what a function of single elements makes of a tensor with this ``size`` and ``stride``."""
    return torch.empty_like(torch.empty_strided(size, stride, device='meta')).stride()
