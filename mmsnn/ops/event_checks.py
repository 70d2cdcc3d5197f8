"""Checks of the event-driven ops in plain PyTorch; the compiled ops make the same."""

import torch
from torch import Tensor

from .neuron import NeuronSettings, decode


def check_geometry(x, kernel, stride, padding, dilation) -> list[int]:
    """Height and width of the output."""
    if x.dim() != 4 or any(len(n) != 2 for n in (kernel, stride, padding, dilation)):
        raise ValueError(f'x must be [N, C, H, W], and the numbers pairs, got {tuple(x.shape)}, {kernel}')
    if min(*kernel, *stride, *dilation) < 1 or min(padding) < 0:
        raise ValueError('kernel, stride and dilation must be at least 1, padding at least 0')
    sizes = []
    for n, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation):
        free = n + 2 * p - d * (k - 1) - 1
        if free < 0:
            raise ValueError(f'the kernel {kernel} is larger than x {tuple(x.shape)}')
        sizes.append(free // s + 1)
    return sizes


def check_spikes(x: Tensor) -> None:
    if x.dtype not in (torch.uint8, torch.float32):
        raise TypeError(f'events are read from uint8 or float32, got {x.dtype}')


def check_groups(x: Tensor, outputs: int, groups: int) -> None:
    if x.dim() != 4 or groups < 1 or outputs < 1 or x.shape[1] % groups or outputs % groups:
        raise ValueError(f'groups={groups} must divide the channels of x {tuple(x.shape)} and the {outputs} outputs')


def check_row(values: Tensor | None, outputs: int) -> None:
    if values is None:
        return
    if values.dim() != 1 or values.numel() != outputs:
        raise ValueError(f'shift must hold one number for each of the {outputs} outputs, got {tuple(values.shape)}')
    if values.dtype != torch.float32:
        raise TypeError(f'shift must be float32, got {values.dtype}')


def check_bytes(x: Tensor) -> None:
    if x.dtype != torch.uint8:
        raise TypeError(f'expected spikes as uint8, got {x.dtype}')


def neuron_of(kind: list[int], values: list[float], tau: Tensor | None) -> tuple[NeuronSettings, Tensor | None]:
    """Settings and learned time constant."""
    settings, smooth = decode(kind, values)
    if smooth:
        raise ValueError(f'no kind of neuron that emits bytes: {kind}')
    if tau is not None and tau.numel() != 1:
        raise ValueError(f'a tensor tau must hold one number, got shape {tuple(tau.shape)}')
    return settings, None if settings.tau is None else tau


def check_steps(rows: int, T: int) -> None:
    if T < 1 or rows % T:
        raise ValueError(f'the first dimension of x, {rows}, must hold T={T} time steps')


def check_conv(x, weight, bias, stride, padding, dilation, groups) -> list[int]:
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
