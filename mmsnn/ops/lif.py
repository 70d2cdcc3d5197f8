"""Public multi-step LIF, alone and behind batch norm: argument checks, then the op."""

import functools
import math
import numbers

import torch
import torch.distributed as dist
from torch import Tensor

from . import reference
from .library import announce, encode
from .surrogates import registered_derivative, resolve_surrogate

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# bfloat16 and packed spikes hold no larger integers exactly
MOST_LEVELS = 255
# of a neuron, but for tau, in the order in which they are cached
SETTINGS = ('v_threshold', 'v_reset', 'decay_input', 'detach_reset', 'surrogate', 'alpha', 'levels', 'rounded')


def _check_number(name: str, value, *, positive: bool = False) -> None:
    # what a compiler traces may be a symbol, and a check of it would hold the graph to this one number
    if torch.compiler.is_compiling():
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f'{name} must be a number, got {value!r}')
    if not math.isfinite(value) or (positive and value <= 0):
        raise ValueError(f'{name} must be finite{" and above 0" if positive else ""}, got {value!r}')


def _check_flag(name: str, value) -> None:
    if not isinstance(value, bool):
        raise TypeError(f'{name} must be True or False, got {value!r}')


def check_time_steps(T, name: str = 'T') -> None:
    """Raise TypeError unless ``T`` is an int, ValueError unless it is at least 1."""
    if isinstance(T, bool) or not isinstance(T, numbers.Integral):
        raise TypeError(f'{name} must be an int of at least 1, got {T!r}')
    if T < 1:
        raise ValueError(f'{name} must be at least 1 time step, got {T}')


def check_tau(tau: Tensor, device: torch.device | None = None) -> None:
    """Raise ValueError unless the learned time constant is one floating-point number, on ``device`` if given."""
    if tau.numel() != 1 or not tau.is_floating_point():
        raise ValueError(f'a tensor tau must hold one floating-point number, got {tau.dtype} {tuple(tau.shape)}')
    if device is not None and tau.device != device:
        raise ValueError(f'a tensor tau must be on the device of x, {device}, got {tau.device}')


def check_neuron(*, tau, v_threshold, v_reset, surrogate, alpha, levels, rounded=False) -> None:
    """Check the settings of a neuron.

    Raises:
        TypeError: a setting has the wrong type.
        ValueError: ``tau < 1``, ``v_threshold <= 0``, ``v_reset >= v_threshold``, an unknown surrogate, ``alpha <= 0``,
            ``levels`` outside 1..255, or a hard reset together with ``levels > 1`` or ``rounded``.
    """
    compiling = torch.compiler.is_compiling()
    _check_number('v_threshold', v_threshold, positive=True)
    if isinstance(tau, Tensor):
        check_tau(tau)
    elif tau is not None:
        _check_number('tau', tau)
        if tau < 1 and not compiling:
            raise ValueError(f'tau must be at least 1 time step (None for IF), got {tau}')
    if v_reset is not None:
        _check_number('v_reset', v_reset)
        if v_reset >= v_threshold and not compiling:
            raise ValueError(f'v_reset must lie below v_threshold={v_threshold} (None for a soft reset), got {v_reset}')
    resolve_surrogate(surrogate)
    if alpha is not None:
        _check_number('alpha', alpha, positive=True)
    check_time_steps(levels, 'levels')
    if levels > MOST_LEVELS:
        raise ValueError(f'levels must be at most {MOST_LEVELS}, got {levels}')
    _check_flag('rounded', rounded)
    if (levels > 1 or rounded) and v_reset is not None:
        raise ValueError(f'levels={levels} needs the soft reset: set v_reset=None (got {v_reset})')


def check_input(x: Tensor, T: int) -> None:
    """Raise TypeError unless ``x`` is a floating-point tensor, ValueError unless its first dimension holds T steps."""
    check_time_steps(T)
    if not isinstance(x, Tensor) or x.dtype not in DTYPES or x.layout != torch.strided:
        raise TypeError(
            'x must be a dense floating-point tensor (float16, bfloat16, float32 or float64), got '
            f'{getattr(x, "dtype", type(x).__name__)} {getattr(x, "layout", "")}'.rstrip()
        )
    # in a compiled graph the op itself does, when it runs
    if torch.compiler.is_compiling():
        return
    if x.dim() == 0 or x.shape[0] % T or x.shape[0] == 0:
        raise ValueError(
            f'the first dimension of x must hold T={T} time steps (T*B, time outermost), got shape {tuple(x.shape)}'
        )


def _check_potential(v_init: Tensor | None, x: Tensor, T: int) -> None:
    if v_init is None:
        return
    step = (x.shape[0] // T, *x.shape[1:])
    if not isinstance(v_init, Tensor) or v_init.dtype not in DTYPES or v_init.layout != torch.strided:
        raise TypeError(f'v_init must be a floating-point tensor, got {getattr(v_init, "dtype", type(v_init))}')
    if v_init.device != x.device:
        raise ValueError(f'v_init must be on the device of x, {x.device}, got {v_init.device}')
    size = math.prod(step)
    if v_init.numel() != size or tuple(v_init.shape) not in (step, tuple(x.shape[1:]), (size,)):
        raise ValueError(f'v_init must have the shape of one time step {step}, got {tuple(v_init.shape)}')


def _checked(tau, v_threshold, v_reset, decay_input, detach_reset, surrogate, alpha, levels, rounded):
    _check_flag('decay_input', decay_input)
    _check_flag('detach_reset', detach_reset)
    known = dict(v_threshold=v_threshold, v_reset=v_reset, alpha=alpha, levels=levels, rounded=rounded)
    check_neuron(tau=tau, surrogate=surrogate, **known)
    surrogate = resolve_surrogate(surrogate)
    if registered_derivative(surrogate) is not None:
        return None, None
    return encode(tau, decay_input=decay_input, detach_reset=detach_reset, surrogate=surrogate, **known)


_checked_before = functools.lru_cache(maxsize=1024, typed=True)(_checked)


def _neuron(device, tau, *settings) -> tuple[list[int], list[float], Tensor | None]:
    """What the op wants to know about a neuron; settings seen before are not checked again."""
    learned = tau if isinstance(tau, Tensor) else None
    if learned is not None:
        check_tau(learned, device)
        tau = 2.0
    try:
        # the compiler traces through the cache anyway, with a warning
        check = _checked if torch.compiler.is_compiling() else _checked_before
        return *check(tau, *settings), learned
    except TypeError:
        return *_checked(tau, *settings), learned


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
) -> Tensor | tuple[Tensor, Tensor]:
    """Spikes of leaky integrate-and-fire neurons over T time steps; `mmsnn.ops.reference` holds the equations.

    Neurons keep no state: the membrane starts at ``v_init`` (default: ``v_reset``, 0 for a soft reset) and is gone
    afterwards unless ``return_v``.

    Args:
        x: input current, floating point, read as ``[T, N]``: ``[T*B, ...]`` and ``[T, B, ...]`` both do.
        T: time steps; outermost in ``x``'s first dimension.
        tau: membrane time constant in time steps, at least 1. None: no leak (IF). A tensor of one element: learnable,
            it receives a gradient (PLIF, Fang et al., ICCV 2021).
        v_threshold: firing threshold.
        v_reset: potential after a spike (hard reset). None: subtract the threshold (soft reset).
        decay_input: whether the input is divided by ``tau`` as well.
        detach_reset: whether the gradient through the reset is cut.
        surrogate: ``triangle`` (piecewise quadratic), ``atan``, ``sigmoid`` or ``rectangle``, by SpikingJelly's names,
            too (``ATan``, ``PiecewiseQuadratic`` ...), or one of `mmsnn.register_surrogate`.
        alpha: steepness of the surrogate as in SpikingJelly. None: 1, 2, 4 and 1 in the order above.
        levels: D > 1 emits integers 0..D (I-LIF, Luo et al., ECCV 2024); needs ``v_reset=None``.
        rounded: with ``levels=1``, whether the neuron fires where ``h / v_threshold`` rounds to 1, as I-LIF does, and
            not from the threshold on; needs ``v_reset=None``.
        v_init: initial membrane potential, as many elements as one time step of ``x``.
        return_v: also return the potential after the last step.

    Returns:
        Spikes in the shape and type of ``x``; with ``return_v`` also the potential, in float32 (float64 for float64),
        shaped like one step: ``x.shape[1:]`` for ``[T, ...]`` input, ``[B, ...]`` for ``[T*B, ...]``.

    Raises:
        TypeError: ``x`` is no floating-point tensor, or a setting has the wrong type.
        ValueError: the first dimension is no multiple of T, ``v_init`` does not fit, or a setting is out of range.
    """
    check_input(x, T)
    if not torch.compiler.is_compiling():
        announce(x.device.type)
    settings = v_threshold, v_reset, decay_input, detach_reset, surrogate, alpha, levels, rounded
    kind, values, learned = _neuron(x.device, tau, *settings)
    _check_flag('return_v', return_v)
    _check_potential(v_init, x, T)
    if kind is None or reference.is_transformed():
        plain = dict(zip(SETTINGS, settings), tau=tau, v_init=v_init, return_v=return_v)
        return reference.lif(x, T, **plain)
    out, v = torch.ops.mmsnn.lif.default(x, T, kind, values, learned, v_init, return_v)
    return (out, v) if return_v else out


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
    group: dist.ProcessGroup | None = None,
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
) -> Tensor | tuple[Tensor, Tensor]:
    """Batch norm and LIF in one: `torch.nn.functional.batch_norm` followed by `lif`, without the tensor in between.

    Both passes compute that tensor again from ``x``, which is all that is kept.

    Args:
        x: ``[T*B, C, ...]``, time outermost.
        T: time steps.
        running_mean, running_var: statistics ``[C]``, used unless ``training`` and updated in place if so. None in
            training: nothing to update.
        weight, bias: of the norm, ``[C]``; None: 1 and 0.
        training: whether the statistics are the batch's, over batch, time and space.
        momentum: share of the new statistics in the running ones.
        eps: added to the variance.
        scale: factor on ``weight`` (tdBN, Zheng et al., AAAI 2021: alpha * v_threshold).
        group: processes whose batches share their statistics, as in `torch.nn.SyncBatchNorm`; None: this one alone.
        tau, v_threshold, v_reset, decay_input, detach_reset, surrogate, alpha, levels, rounded, v_init,
            return_v: as in `lif`.

    Returns:
        As `lif`.

    Raises:
        TypeError: as `lif`.
        ValueError: as `lif`; statistics, weight or bias are no ``[C]``; no statistics in evaluation; a single value
            a channel in training.
    """
    check_input(x, T)
    if not torch.compiler.is_compiling():
        announce(x.device.type)
    if x.dim() < 2:
        raise ValueError(f'x must have channels as its second dimension, got shape {tuple(x.shape)}')
    channels = x.shape[1]
    norm = dict(running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
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
    _check_flag('training', training)
    _check_number('eps', eps)
    if not torch.compiler.is_compiling() and eps < 0:
        raise ValueError(f'eps must be at least 0, got {eps}')
    _check_number('scale', scale)
    if training and running_mean is not None:
        _check_number('momentum', momentum)
    if not training and running_mean is None:
        raise ValueError('running_mean and running_var are needed unless training=True')
    if (running_mean is None) != (running_var is None):
        raise ValueError('running_mean and running_var go together: give both or neither')
    if training and group is None and not torch.compiler.is_compiling() and x.numel() <= channels:
        raise ValueError(f'batch statistics need more than one value a channel in training, got shape {tuple(x.shape)}')
    settings = v_threshold, v_reset, decay_input, detach_reset, surrogate, alpha, levels, rounded
    kind, values, learned = _neuron(x.device, tau, *settings)
    _check_flag('return_v', return_v)
    _check_potential(v_init, x, T)
    if kind is None or reference.is_transformed():
        if group is not None:
            raise NotImplementedError('statistics of several processes are not shared in plain PyTorch: set group=None')
        plain = dict(zip(SETTINGS, settings), tau=tau, v_init=v_init, return_v=return_v)
        return reference.bn_lif(x, T, **norm, training=training, momentum=momentum, eps=eps, scale=scale, **plain)
    neuron = (T, kind, values)
    if not training:
        mean, var = running_mean, running_var
        count = None
    else:
        mean, var, count = _statistics(x.detach(), group)
        if running_mean is not None:
            with torch.no_grad():
                # of a process alone there are at least two
                unbiased = count / ((count - 1).clamp(min=1) if isinstance(count, Tensor) else count - 1)
                _update(running_mean, mean, momentum)
                _update(running_var, var * unbiased, momentum)
    out, v = _BatchNormLIF.apply(
        x, weight, bias, mean, var, learned, v_init, eps, scale, count, group, neuron, return_v
    )
    return (out, v) if return_v else out


def _update(running: Tensor, new: Tensor, momentum: float) -> None:
    # torch's batch norm, which saves the running statistics, does not count its updates as changes either
    running = running if torch.compiler.is_compiling() else running.data
    running.lerp_(new.to(running.dtype), momentum)


def _statistics(x: Tensor, group) -> tuple[Tensor, Tensor, int | Tensor]:
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


def _affine(x, weight, bias, mean, var, eps, scale) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and inverse deviation of each channel; factor and shift that do what the norm does."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    mean, invstd = mean.to(dtype), torch.rsqrt(var.to(dtype) + eps)
    factor = invstd * scale if weight is None else invstd * (weight.to(dtype) * scale)
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
        empty = x.new_empty(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
        mean, var, _ = _statistics(x.detach(), group) if recomputed else (empty, empty, None)
    learned = tau if isinstance(tau, Tensor) else None
    return _SavesAsBatchNormLIF.apply(out, x, weight, bias, mean, var, learned, norm['eps'])


class _SavesAsBatchNormLIF(torch.autograd.Function):
    @staticmethod
    def forward(ctx, out, x, weight, bias, mean, var, tau, eps):
        ctx.save_for_backward(x, weight, bias, *_affine(x, weight, bias, mean, var, eps, 1.0), tau, None)
        return out.view_as(out)

    @staticmethod
    def backward(ctx, grad):
        return grad, *[None] * 7


class _BatchNormLIF(torch.autograd.Function):
    """Keeps x and numbers per channel; the gradient of the norm's output is summed in one pass, used in the next."""

    @staticmethod
    def forward(ctx, x, weight, bias, mean, var, tau, v_init, eps, scale, count, group, neuron, return_v):
        mean, invstd, factor, shift = _affine(x, weight, bias, mean, var, eps, scale)
        T, kind, values = neuron
        out, v = torch.ops.mmsnn.bn_lif(x, factor, shift, T, kind, values, tau, v_init, return_v)
        ctx.save_for_backward(x, weight, bias, mean, invstd, factor, shift, tau, v_init)
        ctx.rest = scale, count, group, neuron, return_v
        ctx.set_materialize_grads(False)
        if not return_v:
            ctx.mark_non_differentiable(v)
        return out, v

    # no once_differentiable: its error is skipped by autograd.grad, and the ops raise one themselves
    @staticmethod
    def backward(ctx, grad, grad_v):
        x, weight, bias, mean, invstd, factor, shift, tau, v_init = ctx.saved_tensors
        scale, count, group, (T, kind, values), return_v = ctx.rest
        if grad is None and grad_v is None:
            return (None,) * 13
        grad = torch.zeros_like(x) if grad is None else grad
        norm, neuron = (x, factor, shift, mean), (T, kind, values, tau, v_init)
        grad_v = grad_v if return_v else None
        total, product = torch.ops.mmsnn.bn_lif_reduce(grad, grad_v, *norm, *neuron)
        grad_weight = None if weight is None else (product * invstd * scale).to(weight.dtype)
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
        return grad_x, grad_weight, grad_bias, None, None, grad_tau, grad_first, *[None] * 6
