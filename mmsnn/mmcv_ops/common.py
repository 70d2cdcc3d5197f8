"""What the ops share: torchvision, imported late, the precision they compute in, and gradients by autograd."""

import functools

import torch
from torch import Tensor

from ..compat import torchvision_hint


@functools.cache
def torchvision_ops():
    """``torchvision.ops``, imported late because it is slow and seldom needed.

    Raises:
        ImportError: torchvision does not fit torch.
    """
    try:
        import torchvision.ops
    except (ImportError, OSError, RuntimeError) as error:
        raise ImportError(torchvision_hint()) from error
    return torchvision.ops


def wide(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 if it comes so: half precision is for storage."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def vjp(function, inputs: list[Tensor], cotangent: Tensor | None = None) -> tuple[Tensor, ...]:
    """Gradients by each of ``inputs`` of ``function(*inputs)``, a scalar where no ``cotangent`` is given."""
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in inputs]
        out = function(*inputs)
    if not out.requires_grad:
        return tuple(torch.zeros_like(x) for x in inputs)
    return torch.autograd.grad(out, inputs, cotangent, materialize_grads=True)
