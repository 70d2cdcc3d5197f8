"""Random numbers and masks that an image keeps in all of its time steps."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmpretrain.models.utils.sparse_modules import SparseHelper
from torch import Tensor
from torch.overrides import TorchFunctionMode

# of a size, and of as many rows as their first argument has
BY_SIZE = {torch.rand, torch.randn, torch.randint}
BY_ROWS = {torch.rand_like, torch.randn_like, torch.multinomial, torch.bernoulli, Tensor.multinomial, Tensor.bernoulli}


class SameDraws(TorchFunctionMode):
    """Inside, numbers that are drawn for the T*B rows of folded images are drawn for B of them and repeated T times.

    So masked pre-training hides the same patches of an image at every step. Rows are told by their number: what is
    drawn for another number of them stays as it is. Dropout is not concerned.

    Args:
        T: time steps.
        images: B.
    """

    def __init__(self, T: int, images: int):
        super().__init__()
        self.T, self.images = T, images

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, rows = kwargs or {}, self.T * self.images
        if function in BY_ROWS and args[0].dim() and len(args[0]) == rows:
            return self._repeat(function(args[0][: self.images], *args[1:], **kwargs))
        if function in BY_SIZE:
            # rand(3, 4) and rand((3, 4)); randint's bounds come first
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
    """Inside, the mask of SparK, which its sparse layers find outside of the backbone, holds for T*B folded images."""
    mask = SparseHelper._cur_active
    # where there is none, nothing is set: compilers do not trace that
    if mask is None or len(mask) != images:
        yield
        return
    SparseHelper._cur_active = mask.repeat(T, 1, 1, 1)
    try:
        yield
    finally:
        SparseHelper._cur_active = mask
