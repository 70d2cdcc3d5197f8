"""What packed spikes look like: one bit for each, or a byte for an integer."""

import torch
from torch import Tensor

from .layout import is_dense


def check_bits(bits: int) -> None:
    """Raise ValueError unless ``bits`` is 1 or 8."""
    if bits not in (1, 8):
        raise ValueError(f'bits must be 1 (spikes) or 8 (integers up to 255), got {bits!r}')


def check_packed(packed: Tensor, size: list[int], stride: list[int], dtype: torch.dtype, bits: int) -> Tensor:
    """Room for what ``packed`` holds, a dense tensor of that size and strides; TypeError or ValueError if it does not.

    Args:
        packed: uint8 of any shape, with no more elements than are needed.
        size, stride, dtype: of the tensor that was packed.
        bits: of each of its elements.
    """
    check_bits(bits)
    out = torch.empty_strided(size, stride, dtype=dtype, device=packed.device)
    if packed.dtype != torch.uint8:
        raise TypeError(f'expected packed spikes as uint8, got {packed.dtype}')
    held = (out.numel() + 7) // 8 if bits == 1 else out.numel()
    if not is_dense(out) or packed.numel() != held:
        raise ValueError(f'{packed.numel()} bytes do not hold size {size} with strides {stride}')
    return out
