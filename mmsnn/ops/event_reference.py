"""The definition of the event-driven ops in plain PyTorch, and what serves where they are not compiled.

An event is an element of a map that is not zero. A convolution on events adds, for every one under its kernel, the row
of weights that belongs to its tap and channel, times its value; what is zero costs nothing. The sums are those of the
dense convolution, in the order of the kernel's rows, its columns and the channels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import reference
from .neuron import NeuronSettings

# output channels whose sums one pixel's registers hold
WIDTHS = (32, 64)


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, stride, padding, dilation, groups: int) -> Tensor:
    """`torch.nn.functional.conv2d` of float32 or uint8 ``x``."""
    return F.conv2d(x.to(weight.dtype), weight, bias, stride, padding, dilation, groups)


def conv_weight_grad(grad: Tensor, x: Tensor, kernel, stride, padding, dilation, groups: int) -> Tensor:
    """The gradient of the weights of `conv` from that of its output."""
    size = (grad.shape[1], x.shape[1] // groups, *kernel)
    return torch.nn.grad.conv2d_weight(x.to(grad.dtype), size, grad, stride, padding, dilation, groups)


def width_of(outputs: int) -> int:
    """Width of a block of so many outputs of a group."""
    return WIDTHS[1] if outputs > WIDTHS[0] else WIDTHS[0]


def rows(weight: Tensor, groups: int, half: bool) -> Tensor:
    """Weights as the kernels read them: ``[groups, blocks, kernel*kernel*channels, width]``, filled up with zeros.

    ``half``: 16 bits a weight, int32 ``[..., width / 2]``. The lower half of a word is a bfloat16 of the block's second
    half; the word as a whole, read as a float, is the weight of the first half: as near as one with this tail can be.
    """
    outputs = weight.shape[0] // groups
    width = width_of(outputs)
    blocks = -(-outputs // width)
    laid = weight.float().reshape(groups, outputs, weight.shape[1], -1).permute(0, 3, 2, 1)
    laid = F.pad(laid.reshape(groups, -1, outputs), (0, blocks * width - outputs))
    laid = laid.reshape(groups, -1, blocks, width).permute(0, 2, 1, 3).contiguous()
    if not half:
        return laid
    upper, lower = (part.contiguous() for part in laid.chunk(2, 3))
    tail = lower.bfloat16().view(torch.int16).int() & 0xFFFF
    bits = upper.view(torch.int32)
    whole = ((bits & 0x7FFFFFFF) - tail + 0x8000).clamp(min=0) & ~0xFFFF
    return (bits & -0x80000000) | whole | tail


def weights(laid: Tensor, outputs: int, kernel, groups: int) -> Tensor:
    """The weights ``[outputs, channels, kernel, kernel]`` that `rows` has laid out."""
    if laid.dtype == torch.int32:
        laid = torch.cat([laid.view(torch.float32), (laid << 16).view(torch.float32)], 3)
    each, (high, wide) = outputs // groups, kernel
    flat = laid.permute(0, 2, 1, 3).flatten(2)[..., :each]
    return flat.unflatten(1, (high, wide, -1)).permute(0, 4, 3, 1, 2).reshape(outputs, -1, high, wide)


def layer(
    x: Tensor,
    weight: Tensor,
    shift: Tensor | None,
    add: Tensor | None,
    stride,
    padding,
    dilation,
    groups: int,
    T: int,
    neuron: tuple[NeuronSettings, Tensor | None] | None,
) -> tuple[Tensor, Tensor]:
    """Convolution, shift, shortcut and `reference.lif`: spikes as uint8, and what the neuron was given.

    Without a ``neuron``, its settings and learned time constant, there are no spikes.
    """
    current = conv(x, weight, shift, stride, padding, dilation, groups)
    if add is not None:
        current = current + add
    return (lif(current, T, False, *neuron) if neuron else current.new_empty(0, dtype=torch.uint8)), current


def lif(x: Tensor, T: int, repeat: bool, settings: NeuronSettings, tau: Tensor | None) -> Tensor:
    """`reference.lif` with uint8 spikes; ``repeat``: ``x`` ``[B, ...]`` is the same at every step."""
    if repeat:
        x = x.repeat(T, *[1] * (x.dim() - 1))
    spikes: Any = reference.lif_forward(x, T, settings, tau)
    return spikes.to(torch.uint8)


def max_pool(x: Tensor, kernel, stride, padding, dilation) -> Tensor:
    """`torch.nn.functional.max_pool2d` of uint8."""
    return F.max_pool2d(x.float(), kernel, stride, padding, dilation).to(torch.uint8)
