"""Convolution of spikes that keeps them as bits: 1/32 (float32) or 1/16 (16-bit) of what a convolution keeps."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .extension import compiled
from .layout import is_dense
from .packed import check_bits
from .transforms import is_transformed

# A convolution on events takes less time than a dense one where at most this share of its inputs are spikes, in kernels
# of at least so many elements, between at least so many channels (tools/benchmarks/results/event_training_avx2.json).
DENSEST, SMALLEST, NARROWEST = 0.15, 9, 32


def packed_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    bits: int = 1,
    events: bool = False,
) -> Tensor:
    """`torch.nn.functional.conv2d` of spikes; equal outputs and gradients, bit for bit, from less memory.

    The input that the gradient of ``weight`` needs is kept packed and unpacked in the backward pass. On ``events``,
    outputs and gradients are equal up to rounding.

    Args:
        x: ``[N, C, H, W]`` of zeros and ones (``bits=1``) or integers 0 to 255 (``bits=8``: sums of spikes).
        weight, bias, stride, padding, dilation, groups: as in `torch.nn.functional.conv2d`.
        bits: kept for each input.
        events: whether output and gradient of ``weight`` are computed by `mmsnn.ops.event_conv` where that takes less
            time: float32 on a CPU with compiled kernels, 3x3 or larger kernels between at least 32 channels, and at
            most 15 % of ``x`` not zero. The gradient of ``x`` is always dense.

    Raises:
        ValueError: ``x`` holds other values (on a GPU: an assertion on the device), or ``bits`` is neither 1 nor 8.
        NotImplementedError: a backward pass with ``create_graph=True``; there is no second derivative.
    """
    check_bits(bits)
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    geometry = tuple(stride), tuple(padding), tuple(dilation), groups
    # what torch.jit traces is for inference, and ONNX knows PyTorch's own functions alone
    if is_transformed() or torch.jit.is_tracing():
        return F.conv2d(x, weight, bias, *geometry)
    with torch.autocast(device, enabled=False):
        return _PackedConv.apply(x, weight, bias, geometry, bits, events and on_events_pays(x, weight, groups))


def on_events_pays(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether output and weight gradient of a convolution of ``x`` take less time on events."""
    # what a compiler traces must not depend on the spikes
    if torch.compiler.is_compiling() or x.device.type != 'cpu' or compiled() is None:
        return False
    outputs, inputs, *kernel = weight.shape
    if x.dtype != torch.float32 or weight.dtype != torch.float32 or math.prod(kernel) < SMALLEST:
        return False
    return min(inputs, outputs // groups) >= NARROWEST and int(x.count_nonzero()) <= DENSEST * x.numel()


class _PackedConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, geometry, bits, on_events):
        ctx.geometry, ctx.bits, ctx.on_events = geometry, bits, on_events
        # a compiler cannot sort the strides of a batch of any size
        spikes = x.contiguous() if torch.compiler.is_compiling() else x
        ctx.layout = x.shape, spikes.stride(), x.dtype
        ctx.bias_size = None if bias is None else list(bias.shape)
        # what has gaps is packed in the default order
        if not torch.compiler.is_compiling() and not is_dense(x):
            ctx.layout = x.shape, torch.empty(x.shape, device='meta').stride(), x.dtype
        packed = torch.ops.mmsnn.pack(spikes, bits) if ctx.needs_input_grad[1] else x.new_empty(0, dtype=torch.uint8)
        ctx.save_for_backward(packed, weight)
        return (torch.ops.mmsnn.event_conv if on_events else F.conv2d)(x, weight, bias, *geometry)

    # no once_differentiable: where `grad` is constant, it lets a second derivative pass without this layer's part
    @staticmethod
    def backward(ctx, grad):
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise NotImplementedError(
                'a convolution that keeps its input packed has no second derivative: build the network with '
                'packed_spikes=False'
            )
        packed, weight = ctx.saved_tensors
        size, stride, dtype = ctx.layout
        if ctx.needs_input_grad[1]:
            x = torch.ops.mmsnn.unpack(packed, size, stride, dtype, ctx.bits)
        else:
            x = grad.new_empty(1).expand(size)
        steps, padding, dilation, groups = ctx.geometry
        wanted = list(ctx.needs_input_grad[:3])
        grad_weight = None
        if ctx.on_events and wanted[1]:
            grad_weight = torch.ops.mmsnn.event_conv_weight_grad(grad, x, weight.shape[2:], *ctx.geometry)
            wanted[1] = False
        grad_x, dense, grad_bias = torch.ops.aten.convolution_backward(
            grad, x, weight, ctx.bias_size, steps, padding, dilation, False, [0, 0], groups, wanted
        )
        return grad_x, dense if grad_weight is None else grad_weight, grad_bias, None, None, None
