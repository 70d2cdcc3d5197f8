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

    y = weight * (x - mean) / sqrt(var + eps) + bias
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import membrane_type
from .neuron import NeuronSettings, gather, takes_settings

# The names of the surrogates are part of the definition.
from .surrogates import SURROGATES as SURROGATES
from .surrogates import registered_derivative
from .transforms import is_transformed


def surrogate_gradient(u: Tensor, kind: str, alpha: float) -> Tensor:
    """The derivative that stands in for that of a step at ``u = 0``; of ours, the integral over ``u`` is 1."""
    if (derivative := registered_derivative(kind)) is not None:
        return derivative(u, alpha)
    if kind == 'atan':
        # A second derivative needs what `reciprocal_` returns.
        return (math.pi / 2 * alpha * u).square_().add_(1).reciprocal_().mul(alpha / 2)
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


def _slope(h: Tensor, settings: NeuronSettings, smooth: bool) -> Tensor:
    """The derivative of the spikes by ``h``, or what stands in for it."""
    kind, alpha, v_threshold = settings.surrogate, settings.steepness, settings.v_threshold
    if smooth or not settings.rounds:
        return surrogate_gradient(h - v_threshold, kind, alpha)
    return _levels_gradient(h / v_threshold, settings.levels, kind, alpha) / v_threshold


def _spikes(h: Tensor, settings: NeuronSettings, smooth: bool) -> Tensor:
    if smooth:
        return surrogate_step(h - settings.v_threshold, settings.surrogate, settings.steepness)
    if not settings.rounds:
        return (h >= settings.v_threshold).to(h)
    return (h / settings.v_threshold).clamp(0, settings.levels).round()


class _Fire(torch.autograd.Function):
    """From ``h`` to spikes; backwards with the surrogate's derivative."""

    @staticmethod
    def forward(ctx, h, settings, smooth):
        ctx.save_for_backward(h)
        ctx.settings, ctx.smooth = settings, smooth
        return _spikes(h, settings, smooth)

    @staticmethod
    def backward(ctx, grad):
        return grad * _slope(ctx.saved_tensors[0], ctx.settings, ctx.smooth), None, None


class _FireTransformed(_Fire):
    """`_Fire` for `torch.func` and forward mode, in a form that torch.compile does not read."""

    generate_vmap_rule = True

    @staticmethod
    def forward(h, settings, smooth):
        return _spikes(h, settings, smooth)

    @staticmethod
    def setup_context(ctx, inputs, output):
        h, ctx.settings, ctx.smooth = inputs
        ctx.save_for_backward(h)
        ctx.save_for_forward(h)

    @staticmethod
    def jvp(ctx, tangent, *_):
        return tangent * _slope(ctx.saved_tensors[0], ctx.settings, ctx.smooth)


def _fire(h: Tensor, settings: NeuronSettings, smooth: bool) -> Tensor:
    if torch.onnx.is_in_onnx_export():
        return _spikes(h, settings, smooth)
    return (_FireTransformed if is_transformed() else _Fire).apply(h, settings, smooth)


def _first(x: Tensor, v_init: Tensor | None, settings: NeuronSettings, dtype: torch.dtype) -> Tensor:
    if v_init is None:
        return torch.full_like(x, settings.v_rest, dtype=dtype)
    return v_init.reshape(x.shape).to(dtype)


def _rate(settings: NeuronSettings, tau: Tensor | None, dtype: torch.dtype) -> float | Tensor | None:
    """1 / tau, of the learned time constant if there is one; None without a leak."""
    if tau is not None:
        return 1.0 / tau.to(dtype).reshape(())
    return None if settings.tau is None else 1.0 / settings.tau


def _charge(v: Tensor, x: Tensor, rate: float | Tensor | None, settings: NeuronSettings) -> Tensor:
    if rate is None:
        return v + x
    above_rest = v - settings.v_rest if settings.v_rest else v
    if settings.decay_input:
        return v + (x - above_rest) * rate
    return v - above_rest * rate + x


def _reset(h: Tensor, s: Tensor, settings: NeuronSettings) -> Tensor:
    v_reset = settings.v_reset
    if v_reset is None:
        return h - s * settings.v_threshold
    v = (1 - s) * h
    return v + s * v_reset if v_reset else v


@takes_settings
def lif(
    x: Tensor,
    T: int,
    settings: NeuronSettings | None = None,
    *,
    v_init: Tensor | None = None,
    return_v: bool = False,
    smooth: bool = False,
    **keywords,
) -> Tensor | tuple[Tensor, Tensor]:
    """Multi-step LIF, as the module's docstring defines it; arguments are those of `mmsnn.ops.lif`.

    Settings are checked, tensors and T are not: what does not fit fails in PyTorch's own functions.
    ``smooth`` puts the surrogate's integral in the place of the step, so that the gradients are those of the function.
    """
    return lif_forward(x, T, *gather(settings, keywords), v_init, return_v, smooth)


def lif_forward(
    x: Tensor,
    T: int,
    settings: NeuronSettings,
    tau: Tensor | None = None,
    v_init: Tensor | None = None,
    return_v: bool = False,
    smooth: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """`lif` of complete settings and a learned time constant or None, of which nothing is checked."""
    dtype = membrane_type(x)
    rate = _rate(settings, tau, dtype)
    steps = x.unflatten(0, (T, -1))
    v = _first(steps[0], v_init, settings, dtype)

    spikes = []
    for step in steps:
        h = _charge(v, step.to(dtype), rate, settings)
        s = _fire(h, settings, smooth)
        v = _reset(h, s.detach() if settings.detach_reset else s, settings)
        spikes.append(s.to(x.dtype))
    out = torch.cat(spikes)
    if not return_v:
        return out
    return out, v.reshape(x.shape[1:] if x.shape[0] == T else (x.shape[0] // T, *x.shape[1:]))


def lif_backward(
    grad: Tensor,
    grad_v: Tensor | None,
    x: Tensor,
    T: int,
    settings: NeuronSettings,
    tau: Tensor | None = None,
    v_init: Tensor | None = None,
    smooth: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gradients of `lif` with respect to ``x``, a learned ``tau`` (None without one) and ``v_init``, from ``x`` alone.

    The membrane potential is computed again. The compiled kernels do the same; where there are none, this serves.
    """
    dtype = membrane_type(x)
    rate = _rate(settings, tau, dtype)
    steps, grads = x.unflatten(0, (T, -1)), grad.unflatten(0, (T, -1))
    v_threshold, v_reset, v_rest = settings.v_threshold, settings.v_reset, settings.v_rest
    potentials, charges, fired = [_first(steps[0], v_init, settings, dtype)], [], []
    for step in steps:
        h = _charge(potentials[-1], step.to(dtype), rate, settings)
        s = _Fire.apply(h, settings, smooth)
        charges.append(h)
        fired.append(s)
        potentials.append(_reset(h, s, settings))

    g = torch.zeros_like(charges[0]) if grad_v is None else grad_v.reshape(steps[0].shape).to(dtype)
    grad_rate = torch.zeros((), dtype=torch.float64, device=x.device)
    grad_x = [grad] * T
    for t in reversed(range(T)):
        h, s, v = charges[t], fired[t], potentials[t]
        grad_s = grads[t].to(dtype)
        if not settings.detach_reset:
            grad_s = grad_s - (g * v_threshold if v_reset is None else g * (h - v_reset))
        grad_h = grad_s * _slope(h, settings, smooth) + (g if v_reset is None else g * (1 - s))
        if tau is not None:
            driven = steps[t].to(dtype) - (v - v_rest) if settings.decay_input else v_rest - v
            grad_rate += (grad_h.double() * driven).sum()
        grad_x[t] = (grad_h * rate if rate is not None and settings.decay_input else grad_h).to(x.dtype)
        g = grad_h if rate is None else grad_h - grad_h * rate
    grad_tau = None if tau is None else (-grad_rate / tau.double().square()).to(tau.dtype).view_as(tau)
    return torch.stack(grad_x).reshape(x.shape), grad_tau, g


def potentials(
    x: Tensor,
    spikes: Tensor,
    T: int,
    settings: NeuronSettings | None = None,
    *,
    v_init: Tensor | None = None,
    **keywords,
) -> Tensor:
    """The membrane potential ``h`` of every step, from the input and the ``spikes`` that `lif` gave for it.

    Shaped as ``x``, in the precision of the state. Gradients reach ``x`` on every path, the resets' through ``spikes``.
    """
    settings, tau = gather(settings, keywords)
    dtype = membrane_type(x)
    rate = _rate(settings, tau, dtype)
    steps, fired = x.unflatten(0, (T, -1)), spikes.unflatten(0, (T, -1))
    v, charges = _first(steps[0], v_init, settings, dtype), []
    for step, s in zip(steps, fired):
        h = _charge(v, step.to(dtype), rate, settings)
        s = s.to(dtype)
        v = _reset(h, s.detach() if settings.detach_reset else s, settings)
        charges.append(h)
    return torch.stack(charges).reshape(x.shape)


@takes_settings
def bn_lif(
    x: Tensor,
    T: int,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    settings: NeuronSettings | None = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    v_init: Tensor | None = None,
    return_v: bool = False,
    **keywords,
) -> Tensor | tuple[Tensor, Tensor]:
    """`torch.nn.functional.batch_norm`, then `lif`; arguments of `mmsnn.ops.bn_lif`."""
    y = F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    return lif_forward(y, T, *gather(settings, keywords), v_init, return_v)
