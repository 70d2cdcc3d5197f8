"""Convolution of spikes that keeps them as bits: 1/32 (float32) or 1/16 (16-bit) of what a convolution keeps."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import is_dense
from .reference import is_transformed


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


def packed_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    bits: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d` of spikes; equal outputs and gradients, bit for bit, from less memory.

    The input that the gradient of ``weight`` needs is kept packed and unpacked in the backward pass.

    Args:
        x: ``[N, C, H, W]`` of zeros and ones (``bits=1``) or integers 0 to 255 (``bits=8``: sums of spikes).
        weight, bias, stride, padding, dilation, groups: as in `torch.nn.functional.conv2d`.
        bits: kept for each input.

    Raises:
        ValueError: ``x`` holds other values (on a GPU: an assertion on the device), or ``bits`` is neither 1 nor 8.
    """
    check_bits(bits)
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    geometry = tuple(stride), tuple(padding), tuple(dilation), groups
    if is_transformed():
        return F.conv2d(x, weight, bias, *geometry)
    with torch.autocast(device, enabled=False):
        return _PackedConv.apply(x, weight, bias, geometry, bits)


class _PackedConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, geometry, bits):
        ctx.geometry, ctx.bits = geometry, bits
        # a compiler cannot sort the strides of a batch of any size
        spikes = x.contiguous() if torch.compiler.is_compiling() else x
        ctx.layout = x.shape, spikes.stride(), x.dtype
        ctx.bias_size = None if bias is None else list(bias.shape)
        # what has gaps is packed in the default order
        if not torch.compiler.is_compiling() and not is_dense(x):
            ctx.layout = x.shape, torch.empty(x.shape, device='meta').stride(), x.dtype
        packed = torch.ops.mmsnn.pack(spikes, bits) if ctx.needs_input_grad[1] else x.new_empty(0, dtype=torch.uint8)
        ctx.save_for_backward(packed, weight)
        return F.conv2d(x, weight, bias, *geometry)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        packed, weight = ctx.saved_tensors
        size, stride, dtype = ctx.layout
        if ctx.needs_input_grad[1]:
            x = torch.ops.mmsnn.unpack(packed, size, stride, dtype, ctx.bits)
        else:
            x = grad.new_empty(1).expand(size)
        steps, padding, dilation, groups = ctx.geometry
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[2]]
        grads = torch.ops.aten.convolution_backward(
            grad, x, weight, ctx.bias_size, steps, padding, dilation, False, [0, 0], groups, wanted
        )
        return *grads, None, None
