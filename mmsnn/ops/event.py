"""Event-driven ops on the CPU: schemas, fake kernels, derivatives and fallbacks; `event_reference` is the definition.

Spikes are uint8 maps ``[T*B, C, H, W]`` in channels-last memory, whose values count: sums of spikes and levels are as
good as single spikes. `event_conv` is for everyone; the other ops are the parts of `mmsnn.event_driven`.
"""

import math

import torch
from torch import Tensor

from . import event_reference
from .event_checks import (
    check_bytes,
    check_conv,
    check_geometry,
    check_groups,
    check_row,
    check_spikes,
    check_steps,
    firing_of,
)
from .extension import implement, use
from .layout import dense
from .transforms import is_transformed

_GEOMETRY = 'int[] stride, int[] padding, int[] dilation, int groups'
_KIND = 'int[] kind, float[] values, Tensor? tau'
_library = torch.library.Library('mmsnn', 'FRAGMENT')
for _schema in (
    f'event_conv(Tensor x, Tensor weight, Tensor? bias, {_GEOMETRY}) -> Tensor',
    f'event_conv_weight_grad(Tensor grad, Tensor x, int[] kernel, {_GEOMETRY}) -> Tensor',
    'event_rows(Tensor weight, int groups, bool half) -> Tensor',
    'event_layer(Tensor x, Tensor rows, Tensor? shift, Tensor? add, int outputs, int[] kernel, '
    f'{_GEOMETRY}, int T, {_KIND}, bool fire, bool current) -> (Tensor, Tensor)',
    f'event_lif(Tensor x, int T, bool repeat, {_KIND}) -> Tensor',
    'event_max_pool(Tensor x, int[] kernel, int[] stride, int[] padding, int[] dilation) -> Tensor',
    'event_count(Tensor x) -> Tensor',
):
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def event_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] | int = 1,
    padding: tuple[int, int] | int = 0,
    dilation: tuple[int, int] | int = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d` at a cost that falls with the share of ``x`` that is zero.

    On a CPU, forward and gradient of ``weight`` take time for the elements of ``x`` that are not zero; where most of
    them are not, the dense convolution is faster. The gradient of ``x`` is dense. On other devices and without compiled
    kernels this is the dense convolution.

    Args:
        x: ``[N, C, H, W]``, float32, or uint8 (without gradient) whose values count.
        weight, bias, stride, padding, dilation, groups: as in `torch.nn.functional.conv2d`; float32; padding is of
            zeros, given as numbers.

    Returns:
        float32 ``[N, outputs, H', W']``, channels last.

    Raises:
        TypeError: a tensor has another type.
        ValueError: shapes do not fit, or a number is out of range.
    """
    steps, border, gaps = ((n, n) if isinstance(n, int) else tuple(n) for n in (stride, padding, dilation))
    if not torch.compiler.is_compiling():
        use(x.device.type)
    if is_transformed():
        return event_reference.conv(x, weight, bias, steps, border, gaps, groups)
    return torch.ops.mmsnn.event_conv(x, weight, bias, steps, border, gaps, groups)


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _map(x: Tensor, channels: int, sizes: list[int], dtype: torch.dtype) -> Tensor:
    size = (x.shape[0], channels, *sizes)
    return torch.empty(size, dtype=dtype, device=x.device, memory_format=torch.channels_last)


# Fake kernels -------------------------------------------------------------------------------------------------------


@torch.library.register_fake('mmsnn::event_conv', lib=_library)
def _(x, weight, bias, stride, padding, dilation, groups):
    sizes = check_conv(x, weight, bias, stride, padding, dilation, groups)
    return _map(x, weight.shape[0], sizes, torch.float32)


@torch.library.register_fake('mmsnn::event_conv_weight_grad', lib=_library)
def _(grad, x, kernel, stride, padding, dilation, groups):
    return grad.new_empty((grad.shape[1], x.shape[1] // groups, *kernel))


@torch.library.register_fake('mmsnn::event_rows', lib=_library)
def _(weight, groups, half):
    outputs = weight.shape[0] // groups
    width = event_reference.width_of(outputs)
    size = (groups, -(-outputs // width), weight.shape[1] * weight.shape[2] * weight.shape[3], width >> half)
    return weight.new_empty(size, dtype=torch.int32 if half else torch.float32)


@torch.library.register_fake('mmsnn::event_layer', lib=_library)
def _(x, rows, shift, add, outputs, kernel, stride, padding, dilation, groups, T, kind, values, tau, fire, current):
    sizes = check_geometry(x, kernel, stride, padding, dilation)
    spikes = _map(x, outputs, sizes, torch.uint8) if fire else x.new_empty(0, dtype=torch.uint8)
    sums = _map(x, outputs, sizes, torch.float32) if current else x.new_empty(0, dtype=torch.float32)
    return spikes, sums


def _fired(x: Tensor, T: int, repeat: bool) -> Tensor:
    """Room for the spikes of ``x``, in its memory order."""
    x = dense(x)
    if repeat:
        # of a single image, the first stride may be any number
        size, stride = (x.shape[0] * T, *x.shape[1:]), (math.prod(x.shape[1:]), *x.stride()[1:])
        return torch.empty_strided(size, stride, dtype=torch.uint8, device=x.device)
    return torch.empty_like(x, dtype=torch.uint8)


@torch.library.register_fake('mmsnn::event_lif', lib=_library)
def _(x, T, repeat, kind, values, tau):
    return _fired(x, T, repeat)


@torch.library.register_fake('mmsnn::event_max_pool', lib=_library)
def _(x, kernel, stride, padding, dilation):
    return _map(x, x.shape[1], check_geometry(x, kernel, stride, padding, dilation), torch.uint8)


@torch.library.register_fake('mmsnn::event_count', lib=_library)
def _(x):
    return x.new_empty((), dtype=torch.int64)


# In plain PyTorch ---------------------------------------------------------------------------------------------------


def _fallback(name: str):
    def register(f):
        implement(_library, name, f)
        return f

    return register


@_fallback('event_conv')
def _event_conv(x, weight, bias, stride, padding, dilation, groups):
    check_conv(x, weight, bias, stride, padding, dilation, groups)
    return _last(event_reference.conv(x, weight, bias, stride, padding, dilation, groups))


@_fallback('event_conv_weight_grad')
def _event_conv_weight_grad(grad, x, kernel, stride, padding, dilation, groups):
    check_spikes(x)
    if grad.dim() != 4:
        raise ValueError(f'the gradient must be [N, outputs, H, W], got {tuple(grad.shape)}')
    check_groups(x, grad.shape[1], groups)
    sizes = check_geometry(x, kernel, stride, padding, dilation)
    if grad.shape[0] != x.shape[0] or list(grad.shape[2:]) != sizes:
        raise ValueError(f'the gradient {tuple(grad.shape)} is none of a convolution of x {tuple(x.shape)}')
    if grad.dtype != torch.float32:
        raise TypeError(f'the gradient must be float32, got {grad.dtype}')
    return event_reference.conv_weight_grad(grad, x, kernel, stride, padding, dilation, groups).contiguous()


@_fallback('event_rows')
def _event_rows(weight, groups, half):
    if weight.dim() != 4 or groups < 1 or weight.numel() == 0 or weight.shape[0] % groups:
        raise ValueError(f'weights {tuple(weight.shape)} are none of a convolution with groups={groups}')
    if not weight.is_floating_point():
        raise TypeError(f'weights must be floating point, got {weight.dtype}')
    return event_reference.rows(weight, groups, half)


@_fallback('event_layer')
def _event_layer(
    x, rows, shift, add, outputs, kernel, stride, padding, dilation, groups, T, kind, values, tau, fire, current
):
    check_spikes(x)
    check_groups(x, outputs, groups)
    check_steps(x.shape[0], T)
    sizes = check_geometry(x, kernel, stride, padding, dilation)
    width = event_reference.width_of(outputs // groups)
    high = kernel[0] * kernel[1] * (x.shape[1] // groups)
    half = rows.dtype == torch.int32
    expected = (groups, -(-(outputs // groups) // width), high, width >> half)
    if not half and rows.dtype != torch.float32:
        raise TypeError(f'rows must be what event_rows gives, got {rows.dtype}')
    if tuple(rows.shape) != expected or not rows.is_contiguous():
        raise ValueError(f'rows must be what event_rows gives: shape {expected}, got {tuple(rows.shape)}')
    check_row(shift, outputs)
    if add is not None:
        check_spikes(add)
        if tuple(add.shape) != (x.shape[0], outputs, *sizes):
            raise ValueError(f'what is added must have the shape of the output, got {tuple(add.shape)}')
    neuron = firing_of(kind, values, tau) if fire else None
    weight = event_reference.weights(rows, outputs, kernel, groups)
    spikes, sums = event_reference.layer(x, weight, shift, add, stride, padding, dilation, groups, T, neuron)
    return _last(spikes) if fire else spikes, _last(sums) if current else sums.new_empty(0)


@_fallback('event_lif')
def _event_lif(x, T, repeat, kind, values, tau):
    if x.dtype != torch.float32:
        raise TypeError(f'the input must be float32, got {x.dtype}')
    if x.dim() < 1:
        raise ValueError('the input must have a first dimension of images')
    check_steps(T if repeat else x.shape[0], T)
    neuron = firing_of(kind, values, tau)
    return _fired(x, T, repeat).copy_(event_reference.lif(x, T, repeat, *neuron))


@_fallback('event_max_pool')
def _event_max_pool(x, kernel, stride, padding, dilation):
    check_bytes(x)
    check_geometry(x, kernel, stride, padding, dilation)
    if any(2 * p > k for p, k in zip(padding, kernel)):
        raise ValueError(f'padding {padding} must be at most half the kernel {kernel}')
    return _last(event_reference.max_pool(x, kernel, stride, padding, dilation))


@_fallback('event_count')
def _event_count(x):
    check_bytes(x)
    return (x != 0).sum()


# Derivatives --------------------------------------------------------------------------------------------------------


def _keep(ctx, inputs, output) -> None:
    x, weight, bias, *geometry = inputs
    ctx.geometry, ctx.bias_size = geometry, None if bias is None else list(bias.shape)
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
    ctx.size = x.shape


def _differentiate(ctx, grad):
    x, weight = ctx.saved_tensors
    stride, padding, dilation, groups = ctx.geometry
    grad_x = grad_weight = grad_bias = None
    if ctx.needs_input_grad[0]:
        like = grad.new_empty(1).expand(ctx.size)
        wanted = [True, False, False]
        grad_x = torch.ops.aten.convolution_backward(
            grad, like, weight, None, stride, padding, dilation, False, [0, 0], groups, wanted
        )[0]
    if ctx.needs_input_grad[1]:
        grad_weight = torch.ops.mmsnn.event_conv_weight_grad(
            grad, x, weight.shape[2:], stride, padding, dilation, groups
        )
    if ctx.needs_input_grad[2]:
        grad_bias = grad.sum((0, 2, 3)).reshape(ctx.bias_size)
    return grad_x, grad_weight, grad_bias, None, None, None, None


def _no_derivative(ctx, *grads):
    raise NotImplementedError(
        'this event-driven op serves inference and has no derivative: mmsnn.ops.event_conv has one'
    )


torch.library.register_autograd('mmsnn::event_conv', _differentiate, setup_context=_keep, lib=_library)
for _name in ('event_conv_weight_grad', 'event_rows', 'event_layer', 'event_lif'):
    torch.library.register_autograd(f'mmsnn::{_name}', _no_derivative, lib=_library)

__all__ = ['event_conv']
