"""How tensors lie in memory, also those of a compiler whose sizes are symbols.

The ops work on tensors whose memory is ``[T, N]``: time outermost, nothing in between.
"""

import torch
from torch import Tensor


def is_dense(x: Tensor) -> bool:
    """Whether the elements of ``x`` fill its memory without gaps or overlaps, in any order of dimensions."""
    expected = 1
    dims = [(s, n) for s, n in zip(x.stride(), x.shape) if not _holds(n == 1)]
    for stride, size in sorted(dims, key=lambda dim: (_number(dim[0]), _number(dim[1]))):
        if not _holds(stride == expected):
            return False
        expected *= size
    return True


def _number(n: int | torch.SymInt) -> int:
    """``n``; for a symbol of a compiler, the size that it has in the trace."""
    return n if isinstance(n, int) else n.node.hint


def _holds(condition: bool | torch.SymBool) -> bool:
    """Whether ``condition`` holds; for one about symbols, whether it holds for the sizes of the trace.

    The graph is not specialised to these sizes.
    """
    if isinstance(condition, bool):
        return condition
    hint = condition.node.hint
    return always_holds(condition) if hint is None else bool(hint)


def always_holds(condition: bool | torch.SymBool) -> bool:
    """Whether ``condition`` about the sizes of a trace holds for all sizes that its graph is meant for."""
    # This import takes seconds, and only a compiler needs it.
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)


def dense(x: Tensor) -> Tensor:
    """``x`` where its memory is ``[T, N]`` with nothing in between, else a copy."""
    outermost = _holds(x.shape[0] == 1) or _holds(x.stride(0) * x.shape[0] == x.numel())
    return x if outermost and is_dense(x) else x.contiguous()


def membrane_type(x: Tensor) -> torch.dtype:
    """Type of the membrane potential: float32, or float64 for float64 input."""
    return torch.promote_types(x.dtype, torch.float32)


def potential(x: Tensor, T: int, wanted: bool) -> Tensor:
    """An uninitialised membrane potential, in the shape and strides of one time step of ``x``; empty if not wanted."""
    if not wanted:
        return x.new_empty(0, dtype=membrane_type(x))
    step = x[0] if _holds(x.shape[0] == T) else x[: x.shape[0] // T]
    return torch.empty_like(step, dtype=membrane_type(x))


def like_potential(v: Tensor, x: Tensor, T: int) -> Tensor:
    """``v`` in the shape and strides of one time step of ``x``."""
    out = potential(x, T, True)
    return out.copy_(v.reshape(out.shape))
