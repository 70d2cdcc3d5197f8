"""Public multi-step LIF: argument checks, then the fastest implementation at hand."""

import math
import numbers

from torch import Tensor

from . import reference


def _check_number(name: str, value, *, positive: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f'{name} must be a number, got {value!r}')
    if not math.isfinite(value) or (positive and value <= 0):
        raise ValueError(f'{name} must be finite{" and above 0" if positive else ""}, got {value!r}')


def check_time_steps(T, name: str = 'T') -> None:
    """Raise TypeError unless ``T`` is an int, ValueError unless it is at least 1."""
    if isinstance(T, bool) or not isinstance(T, numbers.Integral):
        raise TypeError(f'{name} must be an int of at least 1, got {T!r}')
    if T < 1:
        raise ValueError(f'{name} must be at least 1 time step, got {T}')


def check_neuron(*, tau, v_threshold, v_reset, surrogate, alpha, levels) -> None:
    """Check the settings of a neuron.

    Raises:
        TypeError: a setting has the wrong type.
        ValueError: ``tau < 1``, ``v_threshold <= 0``, ``v_reset >= v_threshold``, an unknown surrogate, ``alpha <= 0``,
            ``levels < 1``, or a hard reset together with ``levels > 1``.
    """
    _check_number('v_threshold', v_threshold, positive=True)
    if isinstance(tau, Tensor):
        if tau.numel() != 1 or not tau.is_floating_point():
            raise ValueError(f'a tensor tau must hold one floating-point number, got {tau.dtype} {tuple(tau.shape)}')
    elif tau is not None:
        _check_number('tau', tau)
        if tau < 1:
            raise ValueError(f'tau must be at least 1 time step (None for IF), got {tau}')
    if v_reset is not None:
        _check_number('v_reset', v_reset)
        if v_reset >= v_threshold:
            raise ValueError(f'v_reset must lie below v_threshold={v_threshold} (None for a soft reset), got {v_reset}')
    if surrogate not in reference.SURROGATES:
        raise ValueError(f'surrogate must be one of {", ".join(reference.SURROGATES)}, got {surrogate!r}')
    if alpha is not None:
        _check_number('alpha', alpha, positive=True)
    check_time_steps(levels, 'levels')
    if levels > 1 and v_reset is not None:
        raise ValueError(f'levels={levels} needs the soft reset: set v_reset=None (got {v_reset})')


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
        surrogate: ``triangle`` (piecewise quadratic), ``atan``, ``sigmoid`` or ``rectangle``.
        alpha: steepness of the surrogate as in SpikingJelly. None: 1, 2, 4 and 1 in the order above.
        levels: D > 1 emits integers 0..D (I-LIF, Luo et al., ECCV 2024); needs ``v_reset=None``.
        v_init: initial membrane potential, as many elements as one time step of ``x``.
        return_v: also return the potential after the last step.

    Returns:
        Spikes in the shape and type of ``x``; with ``return_v`` also the potential, in float32 (float64 for float64),
        shaped like one step: ``x.shape[1:]`` for ``[T, ...]`` input, ``[B, ...]`` for ``[T*B, ...]``.

    Raises:
        TypeError: ``x`` is no floating-point tensor, or a setting has the wrong type.
        ValueError: the first dimension is no multiple of T, ``v_init`` does not fit, or a setting is out of range.
    """
    check_time_steps(T)
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f'x must be a floating-point tensor, got {getattr(x, "dtype", type(x).__name__)}')
    if x.dim() == 0 or x.shape[0] % T or x.shape[0] == 0:
        raise ValueError(
            f'the first dimension of x must hold T={T} time steps (T*B, time outermost), got shape {tuple(x.shape)}'
        )
    check_neuron(tau=tau, v_threshold=v_threshold, v_reset=v_reset, surrogate=surrogate, alpha=alpha, levels=levels)
    if v_init is not None:
        step = (x.shape[0] // T, *x.shape[1:])
        if not isinstance(v_init, Tensor) or not v_init.is_floating_point():
            raise TypeError(f'v_init must be a floating-point tensor, got {getattr(v_init, "dtype", type(v_init))}')
        size = math.prod(step)
        if v_init.numel() != size or tuple(v_init.shape) not in (step, tuple(x.shape[1:]), (size,)):
            raise ValueError(f'v_init must have the shape of one time step {step}, got {tuple(v_init.shape)}')
    return reference.lif(
        x,
        T,
        tau=tau,
        v_threshold=v_threshold,
        v_reset=v_reset,
        decay_input=decay_input,
        detach_reset=detach_reset,
        surrogate=surrogate,
        alpha=alpha,
        levels=levels,
        v_init=v_init,
        return_v=return_v,
    )
