"""Helpers of the ops: torchvision, which is imported late, the precision of computations, and gradients by autograd."""

import functools

import torch
from torch import Tensor

from ..compat import torchvision_hint


@functools.cache
def torchvision_ops():
    """``torchvision.ops``, imported late because it is slow and rarely needed.

    Raises:
        ImportError: torchvision is missing or does not match torch.
    """
    try:
        import torchvision.ops
    except (ImportError, OSError, RuntimeError) as error:
        raise ImportError(torchvision_hint()) from error
    return torchvision.ops


def wide(x: Tensor) -> Tensor:
    """``x`` in float32, or unchanged if it is float64: half precision is for storage only."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def vjp(function, inputs: list[Tensor], cotangent: Tensor | None = None) -> tuple[Tensor, ...]:
    """Gradients of ``function(*inputs)`` for each of ``inputs``; without ``cotangent`` the result must be a scalar."""
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in inputs]
        out = function(*inputs)
    if not out.requires_grad:
        return tuple(torch.zeros_like(x) for x in inputs)
    return torch.autograd.grad(out, inputs, cotangent, materialize_grads=True)
