"""Checks of the event-driven ops in plain PyTorch; csrc/event_ops.cpp refuses the same arguments.

All raise TypeError for a tensor of another type and ValueError for shapes and numbers that do not fit.
"""

import torch
from torch import Tensor

from .neuron import NeuronSettings, neuron_of

# of kernel, stride, padding and dilation, so that the kernels' sums of them fit an int
MOST = 2**24


def check_geometry(x, kernel, stride, padding, dilation) -> list[int]:
    """Check the numbers of a convolution or pooling of ``x``; returns height and width of the output."""
    if x.dim() != 4 or any(len(n) != 2 for n in (kernel, stride, padding, dilation)):
        raise ValueError(f'x must be [N, C, H, W], and the numbers pairs, got {tuple(x.shape)}, {kernel}')
    if min(*kernel, *stride, *dilation) < 1 or min(padding) < 0 or max(*kernel, *stride, *padding, *dilation) >= MOST:
        raise ValueError(
            f'kernel, stride and dilation must be at least 1, padding at least 0, and all below {MOST}, got '
            f'{list(kernel)}, {list(stride)}, {list(dilation)}, {list(padding)}'
        )
    sizes = []
    for n, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation):
        free = n + 2 * p - d * (k - 1) - 1
        if free < 0:
            raise ValueError(f'the kernel {kernel} is larger than x {tuple(x.shape)}')
        sizes.append(free // s + 1)
    return sizes


def check_spikes(x: Tensor) -> None:
    """Check a map whose events are read."""
    if x.dtype not in (torch.uint8, torch.float32):
        raise TypeError(f'events are read from uint8 or float32, got {x.dtype}')


def check_groups(x: Tensor, outputs: int, groups: int) -> None:
    """Check that ``groups`` parts the channels of ``x`` and the outputs evenly."""
    if x.dim() != 4 or groups < 1 or outputs < 1 or x.shape[1] % groups or outputs % groups:
        raise ValueError(f'groups={groups} must divide the channels of x {tuple(x.shape)} and the {outputs} outputs')


def check_row(values: Tensor | None, outputs: int) -> None:
    """Check what is added to each output channel."""
    if values is None:
        return
    if values.dim() != 1 or values.numel() != outputs:
        raise ValueError(f'shift must hold one number for each of the {outputs} outputs, got {tuple(values.shape)}')
    if values.dtype != torch.float32:
        raise TypeError(f'shift must be float32, got {values.dtype}')


def check_bytes(x: Tensor) -> None:
    """Check a map that has to be bytes."""
    if x.dtype != torch.uint8:
        raise TypeError(f'expected spikes as uint8, got {x.dtype}')


def firing_of(kind: list[int], values: list[float], tau: Tensor | None) -> tuple[NeuronSettings, Tensor | None]:
    """Check a neuron that emits bytes; returns its settings and learned time constant."""
    settings, tau, smooth = neuron_of(kind, values, tau)
    if smooth:
        raise ValueError(f'no kind of neuron that emits bytes: {kind}')
    return settings, tau


def check_steps(rows: int, T: int) -> None:
    """Check that ``rows`` holds ``T`` time steps."""
    if T < 1 or rows % T:
        raise ValueError(f'the first dimension of x, {rows}, must hold T={T} time steps')


def check_conv(x, weight, bias, stride, padding, dilation, groups) -> list[int]:
    """Check all arguments of `mmsnn.ops.event_conv`; returns height and width of the output."""
    check_spikes(x)
    if weight.dtype != torch.float32:
        raise TypeError(f'weights must be float32, got {weight.dtype}')
    if weight.dim() != 4:
        raise ValueError(f'weights must be [outputs, channels, kernel, kernel], got shape {tuple(weight.shape)}')
    check_groups(x, weight.shape[0], groups)
    if weight.shape[1] * groups != x.shape[1]:
        raise ValueError(f'weights {tuple(weight.shape)} with groups={groups} do not fit x {tuple(x.shape)}')
    check_row(bias, weight.shape[0])
    return check_geometry(x, weight.shape[2:], stride, padding, dilation)
