"""The definition of mmsnn's ops in plain PyTorch, and the fallback where nothing compiled is there.

One step of a leaky integrate-and-fire (LIF) neuron, with input ``x``, membrane potential ``v``, time constant ``tau``
(in time steps):

    charge  h = v + (x - (v - v_rest)) / tau          decay_input=True
            h = v - (v - v_rest) / tau + x            decay_input=False
            h = v + x                                 tau=None (IF)
    fire    s = 1 if h >= v_threshold else 0          levels=1
            s = round(clip(h / v_threshold, 0, D))    levels=D > 1 (I-LIF)
    reset   v = s * v_reset + (1 - s) * h             hard, v_reset a number
            v = h - s * v_threshold                   soft, v_reset=None

with ``v_rest = v_reset`` for a hard reset and 0 for a soft one; the membrane starts at ``v_rest``. The derivative of
``s`` is replaced by a surrogate. State is kept in float32 whatever the type of ``x`` (float64 stays float64).
"""

import math

import torch
from torch import Tensor

# SpikingJelly's meaning and default of alpha
SURROGATES = {'triangle': 1.0, 'atan': 2.0, 'sigmoid': 4.0, 'rectangle': 1.0}


def surrogate_gradient(u: Tensor, kind: str, alpha: float) -> Tensor:
    """The derivative that stands in for that of a step at ``u = 0``; its integral over ``u`` is 1."""
    if kind == 'atan':
        return (math.pi / 2 * alpha * u).square_().add_(1).reciprocal_().mul_(alpha / 2)
    if kind == 'sigmoid':
        s = torch.sigmoid(alpha * u)
        return alpha * s * (1 - s)
    if kind == 'triangle':
        return (alpha - alpha * alpha * u.abs()).clamp(min=0)
    return alpha * (u.abs() < 0.5 / alpha).to(u)


def _levels_gradient(u: Tensor, levels: int, kind: str, alpha: float) -> Tensor:
    """Derivative of ``round(clip(u, 0, D))``: a step at every k - 1/2, each with its surrogate.

    With rectangles of width 1 the steps tile [0, D], which is the published window of I-LIF; it is closed at both
    ends, so that a silent neuron (u = 0) still learns.
    """
    if kind == 'rectangle' and alpha == 1:
        return ((u >= 0) & (u <= levels)).to(u)
    return sum(surrogate_gradient(u - (k + 0.5), kind, alpha) for k in range(levels))


class _Fire(torch.autograd.Function):
    """h -> spikes, with the surrogate's derivative backwards."""

    @staticmethod
    def forward(ctx, h, v_threshold, kind, alpha, levels):
        ctx.save_for_backward(h)
        ctx.args = v_threshold, kind, alpha, levels
        if levels == 1:
            return (h >= v_threshold).to(h)
        return (h / v_threshold).clamp(0, levels).round()

    @staticmethod
    def backward(ctx, grad):
        (h,) = ctx.saved_tensors
        v_threshold, kind, alpha, levels = ctx.args
        if levels == 1:
            slope = surrogate_gradient(h - v_threshold, kind, alpha)
        else:
            slope = _levels_gradient(h / v_threshold, levels, kind, alpha) / v_threshold
        return grad * slope, None, None, None, None


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
    v_init: Tensor | None = None,
    return_v: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Multi-step LIF, as the module's docstring defines it; arguments and errors are those of `mmsnn.ops.lif`."""
    alpha = SURROGATES[surrogate] if alpha is None else alpha
    dtype = torch.promote_types(x.dtype, torch.float32)
    rate = None if tau is None else 1.0 / (tau.to(dtype) if isinstance(tau, Tensor) else tau)
    steps = x.unflatten(0, (T, -1))
    v_rest = 0.0 if v_reset is None else v_reset
    v = torch.full_like(steps[0], v_rest, dtype=dtype) if v_init is None else v_init.reshape(steps[0].shape).to(dtype)

    spikes = []
    for step in steps:
        step = step.to(dtype)
        above_rest = v - v_rest if v_rest else v
        if rate is None:
            h = v + step
        elif decay_input:
            h = v + (step - above_rest) * rate
        else:
            h = v - above_rest * rate + step
        s = _Fire.apply(h, v_threshold, surrogate, alpha, levels)
        fired = s.detach() if detach_reset else s
        v = h - fired * v_threshold if v_reset is None else (1 - fired) * h
        if v_reset:
            v = v + fired * v_reset
        spikes.append(s.to(x.dtype))
    out = torch.stack(spikes).reshape(x.shape)
    if not return_v:
        return out
    return out, v.reshape(x.shape[1:] if x.shape[0] == T else (x.shape[0] // T, *x.shape[1:]))
