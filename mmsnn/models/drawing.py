"""Random numbers and masks that are the same in all time steps of an image."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmpretrain.models.utils.sparse_modules import SparseHelper
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Functions whose arguments are a size, and functions whose output has as many rows as their first argument.
BY_SIZE = {torch.rand, torch.randn, torch.randint}
BY_ROWS = {torch.rand_like, torch.randn_like, torch.multinomial, torch.bernoulli, Tensor.multinomial, Tensor.bernoulli}


class SameDraws(TorchFunctionMode):
    """Context in which random numbers for T*B rows are drawn for B images and repeated T times.

    With it, masked pre-training hides the same patches of an image at every time step. Only tensors with T*B rows are
    affected. Dropout is not.

    Args:
        T: number of time steps.
        images: number of images, B.
    """

    def __init__(self, T: int, images: int):
        super().__init__()
        self.T, self.images = T, images

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, rows = kwargs or {}, self.T * self.images
        if function in BY_ROWS and args[0].dim() and len(args[0]) == rows:
            return self._repeat(function(args[0][: self.images], *args[1:], **kwargs))
        if function in BY_SIZE:
            # The size may be given as rand(3, 4) or rand((3, 4)); in randint it follows the bounds.
            at = next((i for i, a in enumerate(args) if isinstance(a, (tuple, list))), None)
            size = args if at is None else args[at]
            if len(size) and size[0] == rows:
                fewer = (self.images, *size[1:])
                args = fewer if at is None else (*args[:at], fewer, *args[at + 1 :])
                return self._repeat(function(*args, **kwargs))
        return function(*args, **kwargs)

    def _repeat(self, drawn: Tensor) -> Tensor:
        return drawn.repeat(self.T, *[1] * (drawn.dim() - 1))


@contextmanager
def repeated_mask(T: int, images: int) -> Iterator[None]:
    """Context in which SparK's mask, which its sparse layers read from a global variable, is repeated for T steps."""
    mask = SparseHelper._cur_active
    # Without a mask nothing is set, because compilers cannot trace the assignment.
    if mask is None or len(mask) != images:
        yield
        return
    SparseHelper._cur_active = mask.repeat(T, 1, 1, 1)
    try:
        yield
    finally:
        SparseHelper._cur_active = mask
