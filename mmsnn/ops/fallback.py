"""The ops of schema.py in plain PyTorch, for devices and machines without compiled kernels, and their derivatives."""

import torch
from torch import Tensor

from . import reference
from .checks import check_dtype, check_gradient, check_rows, check_step
from .layout import dense, is_dense, like_potential, membrane_type, potential
from .neuron import NeuronSettings, neuron_of
from .packed import check_bits, check_packed


def _checked(
    x: Tensor, T: int, kind: list[int], values: list[float], tau: Tensor | None, v: Tensor | None, grad_v=None
) -> tuple[NeuronSettings, Tensor | None, bool]:
    """The neuron, after the checks that csrc/call.h makes: settings, learned time constant, and ``smooth``."""
    neuron = neuron_of(kind, values, tau)
    check_rows(x, T)
    check_step(v, x, T)
    check_step(grad_v, x, T)
    return neuron


def _channels(values: Tensor, x: Tensor) -> Tensor:
    if x.dim() < 2 or values.numel() != x.shape[1]:
        raise ValueError(f'batch norm of x {tuple(x.shape)} needs one number a channel, got {values.numel()}')
    return values.to(membrane_type(x)).view(1, -1, *[1] * (x.dim() - 2))


def lif(x, T, kind, values, tau, v_init, return_v):
    settings, tau, smooth = _checked(x, T, kind, values, tau, v_init)
    x = dense(x)
    out, v = reference.lif_forward(x, T, settings, tau, v_init, True, smooth)
    return torch.empty_like(x).copy_(out), like_potential(v, x, T) if return_v else potential(x, T, False)


def lif_backward(grad, grad_v, x, T, kind, values, tau, v_init):
    settings, leak, smooth = _checked(x, T, kind, values, tau, v_init, grad_v)
    check_gradient(grad, x)
    x = dense(x)
    grad_x, grad_tau, grad_first = reference.lif_backward(grad, grad_v, x, T, settings, leak, v_init, smooth)
    if grad_tau is None:
        grad_tau = x.new_empty(0, dtype=membrane_type(x)) if tau is None else torch.zeros_like(tau)
    grad_first = potential(x, T, False) if v_init is None else like_potential(grad_first, x, T)
    return torch.empty_like(x).copy_(grad_x), grad_tau, grad_first


def bn_moments(x):
    if x.dim() < 2 or not x.numel():
        raise ValueError(f'batch statistics need values, got shape {tuple(x.shape)}')
    check_dtype(x.dtype)
    dims = [d for d in range(x.dim()) if d != 1]
    var, mean = torch.var_mean(x.to(membrane_type(x)), dims, correction=0)
    return mean, var


def bn_lif(x, scale, shift, T, kind, values, tau, v_init, return_v):
    _checked(x, T, kind, values, tau, v_init)
    y = x.to(membrane_type(x)) * _channels(scale, x) + _channels(shift, x)
    out, v = lif(y, T, kind, values, tau, v_init, return_v)
    x = dense(x)
    return torch.empty_like(x).copy_(out), like_potential(v, x, T) if return_v else v


def bn_lif_reduce(grad, grad_v, x, scale, shift, mean, T, kind, values, tau, v_init):
    _checked(x, T, kind, values, tau, v_init, grad_v)
    wide = x.to(membrane_type(x))
    y = wide * _channels(scale, x) + _channels(shift, x)
    g = lif_backward(grad.to(y.dtype), grad_v, y, T, kind, values, tau, v_init)[0]
    dims = [d for d in range(x.dim()) if d != 1]
    return g.sum(dims), (g * (wide - _channels(mean, x))).sum(dims)


def bn_lif_backward(grad, grad_v, x, scale, shift, mean, offset, slope, T, kind, values, tau, v_init):
    _checked(x, T, kind, values, tau, v_init, grad_v)
    wide = x.to(membrane_type(x))
    y = wide * _channels(scale, x) + _channels(shift, x)
    g, grad_tau, grad_first = lif_backward(grad.to(y.dtype), grad_v, y, T, kind, values, tau, v_init)
    g = g * _channels(scale, x) - _channels(offset, x) - _channels(slope, x) * (wide - _channels(mean, x))
    x = dense(x)
    return torch.empty_like(x).copy_(g), grad_tau, grad_first if v_init is None else like_potential(grad_first, x, T)


def _memory(x: Tensor) -> Tensor:
    """The elements of dense ``x`` in the order of its memory."""
    return x.as_strided((x.numel(),), (1,))


def pack(x, bits):
    check_bits(bits)
    check_dtype(x.dtype)
    flat = _memory(x if is_dense(x) else x.contiguous())
    whole = flat.clamp(0, 1 if bits == 1 else 255).to(torch.uint8)
    if not bool((whole == flat).all()):
        held = 'values other than 0 and 1' if bits == 1 else 'values other than the integers 0 to 255'
        raise ValueError(
            f'the input of a convolution that packs spikes holds {held}: set packed_spikes=False, or give it spikes'
        )
    if bits == 8:
        return whole
    whole = torch.nn.functional.pad(whole, (0, -len(whole) % 8)).view(-1, 8)
    return (whole << torch.arange(8, dtype=torch.uint8, device=x.device)).sum(1, dtype=torch.uint8)


def unpack(packed, size, stride, dtype, bits):
    out = check_packed(packed, size, stride, dtype, bits)
    check_dtype(dtype)
    if bits == 1:
        packed = (packed.reshape(-1, 1) >> torch.arange(8, dtype=torch.uint8, device=packed.device)) & 1
    _memory(out).copy_(packed.flatten()[: out.numel()])
    return out


OPS = {f.__name__: f for f in (lif, lif_backward, bn_moments, bn_lif, bn_lif_reduce, bn_lif_backward, pack, unpack)}


# The derivative of lif: what the forward pass keeps, and the backward pass --------------------------------------------


def keep(ctx, inputs, output) -> None:
    x, ctx.T, ctx.kind, ctx.values, tau, v_init, ctx.return_v = inputs
    ctx.save_for_backward(x, tau, v_init)
    ctx.set_materialize_grads(False)
    if not ctx.return_v:
        ctx.mark_non_differentiable(output[1])


def differentiate(ctx, grad, grad_v):
    x, tau, v_init = ctx.saved_tensors
    if grad is None and grad_v is None:
        return (None,) * 7
    grad = torch.zeros_like(x) if grad is None else grad
    grad_x, grad_tau, grad_first = torch.ops.mmsnn.lif_backward(
        grad, grad_v if ctx.return_v else None, x, ctx.T, ctx.kind, ctx.values, tau, v_init
    )
    grad_first = None if v_init is None else grad_first.reshape(v_init.shape).to(v_init.dtype)
    return grad_x, None, None, None, None if tau is None else grad_tau, grad_first, None


def no_second_derivative(ctx, *grads):
    raise NotImplementedError('the spikes of mmsnn.ops have no second derivative')
