"""The exact number of accumulations that the inputs of a convolution or linear layer cause."""

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

COUNTED = (_ConvNd, nn.Linear)
# Inputs with integers up to here count as sums of spikes; larger ones, such as 8-bit images, count as analog.
LARGEST_INTEGER = 127


def dense_macs(layer: nn.Module, x: Tensor, output: Tensor) -> int:
    """Multiply-accumulates of one call as papers count them, including those with padded zeros."""
    if isinstance(layer, nn.Linear):
        return output.numel() * layer.in_features
    if isinstance(layer, _ConvTransposeNd):
        return x.numel() * layer.out_channels // layer.groups * prod(layer.kernel_size)
    return output.numel() * layer.in_channels // layer.groups * prod(layer.kernel_size)


def accumulations(layer: nn.Module, x: Tensor, output: Tensor) -> Tensor:
    """``sum(x * fan_out)``, where ``fan_out`` is the number of outputs that an input element reaches.

    If ``x`` is a mask of spikes, this is the number of accumulations that they cause. An element at the border, or one
    that the stride skips, reaches fewer outputs, and padding causes no accumulations. Grouped, dilated and transposed
    convolutions are supported.

    Args:
        layer: an instance of `COUNTED`.
        x: the input of the layer, or a tensor of the same shape.
        output: the output of the layer.

    Returns:
        A scalar in float64, which carries the gradient of ``x``.
    """
    if isinstance(layer, nn.Linear):
        return x.sum(dtype=torch.float64) * layer.out_features
    if layer.padding_mode != 'zeros':
        # Pixels at the border reach further outputs through their copies in the padding.
        x = F.pad(x.float(), layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
    spatial = len(layer.kernel_size)
    # [H, W]: the sum over images and channels at each position
    total = x.flatten(0, x.dim() - spatial - 1).sum(0, dtype=torch.float64)
    for axis, reach in enumerate(_reach(layer, x.shape[-spatial:], output.shape[-spatial:])):
        shape = [1] * spatial
        shape[axis] = -1
        total = total * reach.to(total.device).view(shape)
    return total.sum() * layer.out_channels / layer.groups


def _reach(layer: nn.Module, inner: torch.Size, outer: torch.Size) -> list[Tensor]:
    """For each axis, the number of outputs that each input position reaches along it, ``[H]``, ``[W]`` ..."""
    counts = []
    for axis, (n_in, n_out) in enumerate(zip(inner, outer, strict=True)):
        kernel, stride, dilation = (v[axis] for v in (layer.kernel_size, layer.stride, layer.dilation))
        taps = torch.arange(kernel) * dilation - _padding(layer, axis)
        transposed = isinstance(layer, _ConvTransposeNd)
        many, bound = (n_in, n_out) if transposed else (n_out, n_in)
        # Output o of a convolution reads the inputs o * stride + taps; in a transposed one the roles are exchanged.
        places = torch.arange(many)[:, None] * stride + taps
        inside = (places >= 0) & (places < bound)
        counts.append(inside.sum(1) if transposed else torch.bincount(places[inside], minlength=n_in))
    return counts


def _padding(layer: nn.Module, axis: int) -> int:
    """Number of zeros before the first input along ``axis``."""
    if layer.padding_mode != 'zeros' or layer.padding == 'valid':
        return 0
    if layer.padding == 'same':
        return layer.dilation[axis] * (layer.kernel_size[axis] - 1) // 2
    return layer.padding[axis]
