"""Random numbers and masks that are the same in all time steps of an image."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from mmpretrain.models.utils.sparse_modules import SparseHelper
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Functions whose arguments are a size, and functions whose output has as many rows as their first argument.
BY_SIZE = {torch.rand, torch.randn, torch.randint, torch.normal}
BY_ROWS = {
    torch.rand_like,
    torch.randn_like,
    torch.randint_like,
    torch.multinomial,
    torch.bernoulli,
    Tensor.multinomial,
    Tensor.bernoulli,
}


class SameDraws(TorchFunctionMode):
    """Context in which random numbers for T*B rows are drawn for B images and repeated T times.

    With it, masked pre-training hides the same patches of an image at every time step. Only tensors with T*B rows are
    affected. Dropout is not, and neither are draws into a tensor that is given as ``out``.

    Args:
        T: number of time steps.
        images: number of images, B.
    """

    def __init__(self, T: int, images: int):
        super().__init__()
        self.T, self.images = T, images

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, rows = kwargs or {}, self.T * self.images
        if kwargs.get('out') is not None:
            # The caller's own tensor cannot be filled by a smaller draw.
            return function(*args, **kwargs)
        if function in BY_ROWS:
            # The first argument may be given by its name, too.
            like, *rest = args or (kwargs['input'],)
            names = kwargs if args else {key: value for key, value in kwargs.items() if key != 'input'}
            if like.dim() and len(like) == rows:
                return self._repeat(function(like[: self.images], *rest, **names))
        if function in BY_SIZE:
            size, put = _size(function, args, kwargs)
            if len(size) and size[0] == rows:
                args, kwargs = put((self.images, *size[1:]))
                return self._repeat(function(*args, **kwargs))
        return function(*args, **kwargs)

    def _repeat(self, drawn: Tensor) -> Tensor:
        return drawn.repeat(self.T, *[1] * (drawn.dim() - 1))


def _size(function: Callable, args: tuple, kwargs: dict) -> tuple[tuple[int, ...], Callable[[tuple], tuple]]:
    """The size among the arguments of a function of `BY_SIZE`, and what puts another in its place."""
    if 'size' in kwargs:
        return tuple(kwargs['size']), lambda size: (args, {**kwargs, 'size': size})
    at = next((i for i, a in enumerate(args) if isinstance(a, (tuple, list))), None)
    if at is not None:
        return tuple(args[at]), lambda size: ((*args[:at], size, *args[at + 1 :]), kwargs)
    # The numbers of rand(3, 4) are a size, those of randint are bounds, and those of normal mean and deviation.
    if function in (torch.randint, torch.normal):
        return (), lambda size: (args, kwargs)
    return args, lambda size: (size, kwargs)


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
