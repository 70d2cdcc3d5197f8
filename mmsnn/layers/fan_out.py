"""How many accumulations each input of a convolution or linear layer causes, exactly."""

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

COUNTED = (_ConvNd, nn.Linear)
# sums of spikes stay far below, an 8-bit image does not
LARGEST_INTEGER = 127


def dense_macs(layer: nn.Module, x: Tensor, output: Tensor) -> int:
    """Multiply-accumulates of one call as papers count them, those with padded zeros included."""
    if isinstance(layer, nn.Linear):
        return output.numel() * layer.in_features
    if isinstance(layer, _ConvTransposeNd):
        return x.numel() * layer.out_channels // layer.groups * prod(layer.kernel_size)
    return output.numel() * layer.in_channels // layer.groups * prod(layer.kernel_size)


def accumulations(layer: nn.Module, x: Tensor, output: Tensor) -> Tensor:
    """``sum(x * fan_out)``, where ``fan_out`` is the number of outputs that an input element reaches.

    With a mask of spikes in ``x`` this is the number of accumulations they cause: an element at the border or skipped
    by the stride reaches fewer outputs, padding causes none. Grouped, dilated and transposed convolutions included.
    A scalar in float64, which carries the gradient of ``x``.

    Args:
        layer: one of `COUNTED`.
        x: what the layer was given, or anything of its shape.
        output: what the layer returned.
    """
    if isinstance(layer, nn.Linear):
        return x.sum(dtype=torch.float64) * layer.out_features
    if layer.padding_mode != 'zeros':
        # border pixels reach outputs through their copies in the padding as well
        x = F.pad(x.float(), layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
    spatial = len(layer.kernel_size)
    # [H, W]: how much there is at each place, over images and channels
    total = x.flatten(0, x.dim() - spatial - 1).sum(0, dtype=torch.float64)
    for axis, reach in enumerate(_reach(layer, x.shape[-spatial:], output.shape[-spatial:])):
        shape = [1] * spatial
        shape[axis] = -1
        total = total * reach.to(total.device).view(shape)
    return total.sum() * layer.out_channels / layer.groups


def _reach(layer: nn.Module, inner: torch.Size, outer: torch.Size) -> list[Tensor]:
    """For each axis, the number of outputs that each input position reaches along it, ``[H]``, ``[W]`` ..."""
    found = []
    for axis, (n_in, n_out) in enumerate(zip(inner, outer, strict=True)):
        kernel, stride, dilation = (v[axis] for v in (layer.kernel_size, layer.stride, layer.dilation))
        taps = torch.arange(kernel) * dilation - _padding(layer, axis)
        transposed = isinstance(layer, _ConvTransposeNd)
        many, bound = (n_in, n_out) if transposed else (n_out, n_in)
        # a convolution's output o reads the inputs o * stride + taps; a transposed one has the roles exchanged
        places = torch.arange(many)[:, None] * stride + taps
        inside = (places >= 0) & (places < bound)
        found.append(inside.sum(1) if transposed else torch.bincount(places[inside], minlength=n_in))
    return found


def _padding(layer: nn.Module, axis: int) -> int:
    """Zeros in front of the first input along ``axis``."""
    if layer.padding_mode != 'zeros' or layer.padding == 'valid':
        return 0
    if layer.padding == 'same':
        return layer.dilation[axis] * (layer.kernel_size[axis] - 1) // 2
    return layer.padding[axis]
