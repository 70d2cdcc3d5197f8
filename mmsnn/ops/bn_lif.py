"""Batch norm and multi-step LIF as one op, in training and in inference."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from . import reference
from .checks import DTYPES, check_flag, check_input, check_number, check_potential
from .extension import use
from .layout import membrane_type
from .neuron import NeuronSettings, gather, takes_settings
from .transforms import runs_plain


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
    group: dist.ProcessGroup | None = None,
    v_init: Tensor | None = None,
    return_v: bool = False,
    **keywords,
) -> Tensor | tuple[Tensor, Tensor]:
    """`torch.nn.functional.batch_norm` followed by `mmsnn.ops.lif`, without the tensor between the two.

    The backward pass computes that tensor again from ``x``, which is all that is kept.

    Args:
        x: ``[T*B, C, ...]``, time outermost.
        T: number of time steps.
        running_mean, running_var: statistics ``[C]``, used unless ``training`` and updated in place if so. None in
            training: nothing to update.
        weight, bias: of the norm, ``[C]``; None: 1 and 0.
        settings, v_init, return_v, keywords: as in `mmsnn.ops.lif`.
        training: whether the statistics are the batch's, over batch, time and space.
        momentum: share of the new statistics in the running ones.
        eps: added to the variance.
        group: processes whose batches share their statistics, as in `torch.nn.SyncBatchNorm`; None: this one alone.

    Returns:
        As `mmsnn.ops.lif`.

    Raises:
        TypeError: as `mmsnn.ops.lif`.
        ValueError: as `mmsnn.ops.lif`; statistics, weight or bias have another shape than ``[C]``; evaluation without
            statistics; training with a single value a channel.
    """
    check_input(x, T)
    if not torch.compiler.is_compiling():
        use(x.device.type)
    norm = dict(running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    _check_norm(x, norm, training, momentum, eps, group)
    settings, tau = gather(settings, keywords, x.device)
    check_flag('return_v', return_v)
    check_potential(v_init, x, T)
    if settings.encoded is None or runs_plain(settings):
        if group is not None:
            raise NotImplementedError('statistics of several processes are not shared in plain PyTorch: set group=None')
        y = F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
        return reference.lif_forward(y, T, settings, tau, v_init, return_v)
    if not training:
        mean, var, count = running_mean, running_var, None
    else:
        mean, var, count = batch_statistics(x.detach(), group)
        if running_mean is not None:
            with torch.no_grad():
                # A process that trains alone has at least two values a channel.
                unbiased = count / ((count - 1).clamp(min=1) if isinstance(count, Tensor) else count - 1)
                _update(running_mean, mean, momentum)
                _update(running_var, var * unbiased, momentum)
    neuron = T, *settings.encoded
    out, v = _BatchNormLIF.apply(x, weight, bias, mean, var, tau, v_init, eps, count, group, neuron, return_v)
    return (out, v) if return_v else out


def _check_norm(x: Tensor, norm: dict[str, Tensor | None], training: bool, momentum: float, eps: float, group) -> None:
    if x.dim() < 2:
        raise ValueError(f'x must have channels as its second dimension, got shape {tuple(x.shape)}')
    channels = x.shape[1]
    for name, value in norm.items():
        if value is None:
            continue
        if not isinstance(value, Tensor) or value.dtype not in DTYPES:
            raise TypeError(f'{name} must be a floating-point tensor, got {getattr(value, "dtype", type(value))}')
        if tuple(value.shape) != (channels,):
            shape = tuple(value.shape)
            raise ValueError(f'{name} must hold one number for each of the {channels} channels of x, got {shape}')
        if value.device != x.device:
            raise ValueError(f'{name} must be on the device of x, {x.device}, got {value.device}')
    compiling = torch.compiler.is_compiling()
    check_flag('training', training)
    check_number('eps', eps)
    if not compiling and eps < 0:
        raise ValueError(f'eps must be at least 0, got {eps}')
    tracked = norm['running_mean'] is not None
    if training and tracked:
        check_number('momentum', momentum)
    if not training and not tracked:
        raise ValueError('running_mean and running_var are needed unless training=True')
    if tracked != (norm['running_var'] is not None):
        raise ValueError('running_mean and running_var go together: give both or neither')
    if training and group is None and not compiling and x.numel() <= channels:
        raise ValueError(f'batch statistics need more than one value a channel in training, got shape {tuple(x.shape)}')


def _update(running: Tensor, new: Tensor, momentum: float) -> None:
    # torch's batch norm, which saves the running statistics, does not count its updates as changes either
    running = running if torch.compiler.is_compiling() else running.data
    running.lerp_(new.to(running.dtype), momentum)


def batch_statistics(x: Tensor, group) -> tuple[Tensor, Tensor, int | Tensor]:
    """Mean, biased variance and number of values a channel, over all processes of ``group``."""
    mean, var = torch.ops.mmsnn.bn_moments(x)
    count = x.numel() // x.shape[1]
    if group is None:
        return mean, var, count
    mine = torch.cat([mean, var, mean.new_tensor([count])])
    # flat, as gloo wants it
    each = mine.new_empty(dist.get_world_size(group) * len(mine))
    dist.all_gather_into_tensor(each, mine, group=group)
    means, variances, counts = each.view(-1, len(mine)).split([len(mean), len(mean), 1], 1)
    total = counts.sum()
    shared = (means * counts).sum(0) / total
    spread = ((variances + (means - shared).square()) * counts).sum(0) / total
    return shared, spread, total


def _affine(x, weight, bias, mean, var, eps) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and inverse deviation of each channel; factor and shift that do what the norm does."""
    dtype = membrane_type(x)
    mean, invstd = mean.to(dtype), torch.rsqrt(var.to(dtype) + eps)
    factor = invstd if weight is None else invstd * weight.to(dtype)
    # one rounding, as torch's kernels have it
    shift = -mean.double() * factor
    return mean, invstd, factor, (shift if bias is None else bias + shift).to(dtype)


def save_as_bn_lif(out: Tensor, x: Tensor, norm: dict, tau: float | Tensor | None, recomputed: bool) -> Tensor:
    """``out``, and in the graph the tensors that `bn_lif` of ``x`` saves for its backward pass, in the same order.

    For a norm and a neuron that ran apart: activation checkpointing, which counts saved tensors, may then repeat them
    as one op, or the other way round.

    Args:
        out: spikes.
        x: what the norm was given.
        norm: arguments of the norm, as `bn_lif` takes them.
        tau: of the neuron.
        recomputed: whether this is the repetition, whose tensors are used.
    """
    weight, bias, training, group = (norm[key] for key in ('weight', 'bias', 'training', 'group'))
    mean, var = norm['running_mean'], norm['running_var']
    if training:
        empty = x.new_empty(x.shape[1], dtype=membrane_type(x))
        mean, var, _ = batch_statistics(x.detach(), group) if recomputed else (empty, empty, None)
    learned = tau if isinstance(tau, Tensor) else None
    return _SavesAsBatchNormLIF.apply(out, x, weight, bias, mean, var, learned, norm['eps'])


class _SavesAsBatchNormLIF(torch.autograd.Function):
    @staticmethod
    def forward(ctx, out, x, weight, bias, mean, var, tau, eps):
        ctx.save_for_backward(x, weight, bias, *_affine(x, weight, bias, mean, var, eps), tau, None)
        return out.view_as(out)

    @staticmethod
    def backward(ctx, grad):
        return grad, *[None] * 7


class _BatchNormLIF(torch.autograd.Function):
    """Keeps x and numbers per channel; the gradient of the norm's output is summed in one pass, used in the next."""

    @staticmethod
    def forward(ctx, x, weight, bias, mean, var, tau, v_init, eps, count, group, neuron, return_v):
        mean, invstd, factor, shift = _affine(x, weight, bias, mean, var, eps)
        T, kind, values = neuron
        out, v = torch.ops.mmsnn.bn_lif(x, factor, shift, T, kind, values, tau, v_init, return_v)
        ctx.save_for_backward(x, weight, bias, mean, invstd, factor, shift, tau, v_init)
        ctx.rest = count, group, neuron, return_v
        ctx.set_materialize_grads(False)
        if not return_v:
            ctx.mark_non_differentiable(v)
        return out, v

    # no once_differentiable: its error is skipped by autograd.grad, and the ops raise one themselves
    @staticmethod
    def backward(ctx, grad, grad_v):
        x, weight, bias, mean, invstd, factor, shift, tau, v_init = ctx.saved_tensors
        count, group, (T, kind, values), return_v = ctx.rest
        if grad is None and grad_v is None:
            return (None,) * 12
        grad = torch.zeros_like(x) if grad is None else grad
        norm, neuron = (x, factor, shift, mean), (T, kind, values, tau, v_init)
        grad_v = grad_v if return_v else None
        total, product = torch.ops.mmsnn.bn_lif_reduce(grad, grad_v, *norm, *neuron)
        grad_weight = None if weight is None else (product * invstd).to(weight.dtype)
        grad_bias = None if bias is None else total.to(bias.dtype)
        if count is None:
            offset = slope = torch.zeros_like(total)
        else:
            if group is not None:
                both = torch.cat([total, product])
                dist.all_reduce(both, group=group)
                total, product = both.chunk(2)
            offset, slope = factor * total / count, factor * invstd.square() * product / count
        grad_x, grad_tau, grad_first = torch.ops.mmsnn.bn_lif_backward(grad, grad_v, *norm, offset, slope, *neuron)
        grad_first = None if v_init is None else grad_first.reshape(v_init.shape).to(v_init.dtype)
        grad_tau = None if tau is None else grad_tau
        return grad_x, grad_weight, grad_bias, None, None, grad_tau, grad_first, *[None] * 5
