"""The definition of mmsnn's ops in plain PyTorch, and the fallback where nothing compiled is there.

One step of a leaky integrate-and-fire (LIF) neuron, with input ``x``, membrane potential ``v``, time constant ``tau``
(in time steps):

    charge  h = v + (x - (v - v_rest)) / tau          decay_input=True
            h = v - (v - v_rest) / tau + x            decay_input=False
            h = v + x                                 tau=None (IF)
    fire    s = 1 if h >= v_threshold else 0          levels=1
            s = round(clip(h / v_threshold, 0, D))    levels=D > 1, or rounded=True (I-LIF)
    reset   v = s * v_reset + (1 - s) * h             hard, v_reset a number
            v = h - s * v_threshold                   soft, v_reset=None

with ``v_rest = v_reset`` for a hard reset and 0 for a soft one; the membrane starts at ``v_rest``. The derivative of
``s`` is replaced by a surrogate. State is kept in float32 whatever the type of ``x`` (float64 stays float64).

Batch norm in front of the neurons, with mean and biased variance of each channel over batch, time and space:

    y = scale * weight * (x - mean) / sqrt(var + eps) + bias
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# its names are part of the definition
from .surrogates import SURROGATES as SURROGATES
from .surrogates import default_alpha, registered_derivative, resolve_surrogate


def surrogate_gradient(u: Tensor, kind: str, alpha: float) -> Tensor:
    """The derivative that stands in for that of a step at ``u = 0``; of ours, the integral over ``u`` is 1."""
    if (derivative := registered_derivative(kind)) is not None:
        return derivative(u, alpha)
    if kind == 'atan':
        return (math.pi / 2 * alpha * u).square_().add_(1).reciprocal_().mul_(alpha / 2)
    if kind == 'sigmoid':
        s = torch.sigmoid(alpha * u)
        return alpha * s * (1 - s)
    if kind == 'triangle':
        return (alpha - alpha * alpha * u.abs()).clamp(min=0)
    return alpha * (u.abs() < 0.5 / alpha).to(u)


def surrogate_step(u: Tensor, kind: str, alpha: float) -> Tensor:
    """The integral of `surrogate_gradient`, from 0 to 1: a smooth stand-in for the step, for checks of gradients."""
    if kind == 'atan':
        return torch.atan(math.pi / 2 * alpha * u) / math.pi + 0.5
    if kind == 'sigmoid':
        return torch.sigmoid(alpha * u)
    if kind == 'triangle':
        w = (alpha * u).clamp(-1, 1)
        return torch.where(w < 0, (w + 1).square() / 2, 1 - (1 - w).square() / 2)
    return (alpha * u + 0.5).clamp(0, 1)


def _levels_gradient(u: Tensor, levels: int, kind: str, alpha: float) -> Tensor:
    """Derivative of ``round(clip(u, 0, D))``: a step at every k - 1/2, each with its surrogate.

    With rectangles of width 1 the steps tile [0, D], which is the published window of I-LIF; it is closed at both
    ends, so that a silent neuron (u = 0) still learns.
    """
    if kind == 'rectangle' and alpha == 1:
        return ((u >= 0) & (u <= levels)).to(u)
    return sum(surrogate_gradient(u - (k + 0.5), kind, alpha) for k in range(levels))


def _slope(h: Tensor, v_threshold: float, kind: str, alpha: float, levels: int) -> Tensor:
    """d spike / d h, or what stands in for it; ``levels=0`` is a step at the threshold."""
    if not levels:
        return surrogate_gradient(h - v_threshold, kind, alpha)
    return _levels_gradient(h / v_threshold, levels, kind, alpha) / v_threshold


def _spikes(h: Tensor, v_threshold: float, kind: str, alpha: float, levels: int, smooth: bool) -> Tensor:
    if smooth:
        return surrogate_step(h - v_threshold, kind, alpha)
    if not levels:
        return (h >= v_threshold).to(h)
    return (h / v_threshold).clamp(0, levels).round()


class _Fire(torch.autograd.Function):
    """h -> spikes, with the surrogate's derivative backwards."""

    @staticmethod
    def forward(ctx, h, v_threshold, kind, alpha, levels, smooth):
        ctx.save_for_backward(h)
        ctx.args = v_threshold, kind, alpha, levels
        return _spikes(h, v_threshold, kind, alpha, levels, smooth)

    @staticmethod
    def backward(ctx, grad):
        return grad * _slope(ctx.saved_tensors[0], *ctx.args), None, None, None, None, None


def is_transformed() -> bool:
    """Whether `torch.func` or forward-mode differentiation runs, which know PyTorch's own functions alone."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None or torch.autograd.forward_ad._current_level >= 0


def _fire(h: Tensor, v_threshold: float, kind: str, alpha: float, levels: int, smooth: bool) -> Tensor:
    """Spikes of ``h``; ``levels=0`` is a step at the threshold."""
    if not is_transformed():
        return _Fire.apply(h, v_threshold, kind, alpha, levels, smooth)
    still = h.detach()
    # the value of the first term and the slope of the surrogate, in words that every transform knows
    spikes = _spikes(still, v_threshold, kind, alpha, levels, smooth)
    return spikes + _slope(still, v_threshold, kind, alpha, levels) * (h - still)


def _first(x: Tensor, v_init: Tensor | None, v_rest: float, dtype: torch.dtype) -> Tensor:
    if v_init is None:
        return torch.full_like(x, v_rest, dtype=dtype)
    return v_init.reshape(x.shape).to(dtype)


def _charge(v: Tensor, x: Tensor, rate, v_rest: float, decay_input: bool) -> Tensor:
    above_rest = v - v_rest if v_rest else v
    if rate is None:
        return v + x
    if decay_input:
        return v + (x - above_rest) * rate
    return v - above_rest * rate + x


def _reset(h: Tensor, s: Tensor, v_threshold: float, v_reset: float | None) -> Tensor:
    if v_reset is None:
        return h - s * v_threshold
    v = (1 - s) * h
    return v + s * v_reset if v_reset else v


def lif(
    x: Tensor,
    T: int,
    *,
    tau: float | Tensor | None = 2.0,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    decay_input: bool = True,
    detach_reset: bool = False,
    surrogate: str = 'atan',
    alpha: float | None = None,
    levels: int = 1,
    rounded: bool = False,
    v_init: Tensor | None = None,
    return_v: bool = False,
    smooth: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Multi-step LIF, as the module's docstring defines it; arguments and errors are those of `mmsnn.ops.lif`.

    ``smooth`` puts the surrogate's integral in the place of the step, so that gradients are those of the function.
    """
    surrogate = resolve_surrogate(surrogate)
    alpha = default_alpha(surrogate) if alpha is None else alpha
    levels = levels if levels > 1 or rounded else 0
    dtype = torch.promote_types(x.dtype, torch.float32)
    rate = None if tau is None else 1.0 / (tau.to(dtype) if isinstance(tau, Tensor) else tau)
    steps = x.unflatten(0, (T, -1))
    v_rest = 0.0 if v_reset is None else v_reset
    v = _first(steps[0], v_init, v_rest, dtype)

    spikes = []
    for step in steps:
        h = _charge(v, step.to(dtype), rate, v_rest, decay_input)
        s = _fire(h, v_threshold, surrogate, alpha, levels, smooth)
        v = _reset(h, s.detach() if detach_reset else s, v_threshold, v_reset)
        spikes.append(s.to(x.dtype))
    out = torch.stack(spikes).reshape(x.shape)
    if not return_v:
        return out
    return out, v.reshape(x.shape[1:] if x.shape[0] == T else (x.shape[0] // T, *x.shape[1:]))


def lif_backward(
    grad: Tensor,
    grad_v: Tensor | None,
    x: Tensor,
    T: int,
    *,
    tau: float | Tensor | None,
    v_threshold: float,
    v_reset: float | None,
    decay_input: bool,
    detach_reset: bool,
    surrogate: str,
    alpha: float,
    levels: int,
    rounded: bool = False,
    v_init: Tensor | None = None,
    smooth: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gradients of `lif` by ``x``, a tensor ``tau`` (else None) and ``v_init``, from ``x`` alone.

    The membrane is computed again. This is what the compiled kernels do, and what serves in their absence.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    levels = levels if levels > 1 or rounded else 0
    learns = isinstance(tau, Tensor)
    rate = None if tau is None else 1.0 / (tau.to(dtype) if learns else tau)
    steps, grads = x.unflatten(0, (T, -1)), grad.unflatten(0, (T, -1))
    v_rest = 0.0 if v_reset is None else v_reset
    potentials, charges, fired = [_first(steps[0], v_init, v_rest, dtype)], [], []
    for step in steps:
        h = _charge(potentials[-1], step.to(dtype), rate, v_rest, decay_input)
        s = _Fire.apply(h, v_threshold, surrogate, alpha, levels, smooth)
        charges.append(h)
        fired.append(s)
        potentials.append(_reset(h, s, v_threshold, v_reset))

    g = torch.zeros_like(charges[0]) if grad_v is None else grad_v.reshape(steps[0].shape).to(dtype)
    grad_rate = torch.zeros((), dtype=torch.float64, device=x.device)
    grad_x = [grad] * T
    for t in reversed(range(T)):
        h, s, v = charges[t], fired[t], potentials[t]
        grad_s = grads[t].to(dtype)
        if not detach_reset:
            grad_s = grad_s - (g * v_threshold if v_reset is None else g * (h - v_reset))
        grad_h = grad_s * _slope(h, v_threshold, surrogate, alpha, levels) + (g if v_reset is None else g * (1 - s))
        if learns:
            driven = steps[t].to(dtype) - (v - v_rest) if decay_input else v_rest - v
            grad_rate += (grad_h.double() * driven).sum()
        grad_x[t] = (grad_h * rate if rate is not None and decay_input else grad_h).to(x.dtype)
        g = grad_h if rate is None else grad_h - grad_h * rate
    grad_tau = (-grad_rate / tau.double().square()).to(tau.dtype).view_as(tau) if learns else None
    return torch.stack(grad_x).reshape(x.shape), grad_tau, g


def potentials(
    x: Tensor,
    spikes: Tensor,
    T: int,
    *,
    tau: float | Tensor | None,
    v_threshold: float,
    v_reset: float | None,
    decay_input: bool,
    detach_reset: bool,
    v_init: Tensor | None = None,
    **_,
) -> Tensor:
    """The membrane potential ``h`` of every step, from the input and the ``spikes`` that `lif` gave for it.

    Shaped as ``x``, in the precision of the state. Gradients reach ``x`` on every path, the resets' through ``spikes``.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    rate = None if tau is None else 1.0 / (tau.to(dtype) if isinstance(tau, Tensor) else tau)
    v_rest = 0.0 if v_reset is None else v_reset
    steps, fired = x.unflatten(0, (T, -1)), spikes.unflatten(0, (T, -1))
    v, found = _first(steps[0], v_init, v_rest, dtype), []
    for step, s in zip(steps, fired):
        h = _charge(v, step.to(dtype), rate, v_rest, decay_input)
        s = s.to(dtype)
        v = _reset(h, s.detach() if detach_reset else s, v_threshold, v_reset)
        found.append(h)
    return torch.stack(found).reshape(x.shape)


def bn_lif(
    x: Tensor,
    T: int,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    scale: float = 1.0,
    **neuron,
) -> Tensor | tuple[Tensor, Tensor]:
    """`torch.nn.functional.batch_norm`, its weight times ``scale``, then `lif`; arguments of `mmsnn.ops.bn_lif`."""
    if scale != 1.0:
        dtype = torch.promote_types(x.dtype, torch.float32)
        weight = x.new_full((x.shape[1],), scale, dtype=dtype) if weight is None else weight * scale
    y = F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    return lif(y, T, **neuron)
