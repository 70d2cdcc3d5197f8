"""Checks of single arguments, with messages that name the argument and what it was given."""

import math
import numbers

import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_number(name: str, value, *, positive: bool = False) -> None:
    """Raise TypeError unless ``value`` is a number, ValueError unless it is finite (and above 0, if ``positive``)."""
    # A compiler may trace a symbol in place of the number; a check would specialise the graph to one value.
    if torch.compiler.is_compiling():
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f'{name} must be a number, got {value!r}')
    if not math.isfinite(value) or (positive and value <= 0):
        raise ValueError(f'{name} must be finite{" and above 0" if positive else ""}, got {value!r}')


def check_flag(name: str, value) -> None:
    """Raise TypeError unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f'{name} must be True or False, got {value!r}')


def check_time_steps(T, name: str = 'T') -> None:
    """Raise TypeError unless ``T`` is an int, ValueError unless it is at least 1."""
    if isinstance(T, bool) or not isinstance(T, numbers.Integral):
        raise TypeError(f'{name} must be an int of at least 1, got {T!r}')
    if T < 1:
        raise ValueError(f'{name} must be at least 1 time step, got {T}')


def check_input(x: Tensor, T: int) -> None:
    """Raise TypeError unless ``x`` is a floating-point tensor, ValueError unless its first dimension holds T steps."""
    check_time_steps(T)
    if not isinstance(x, Tensor) or x.dtype not in DTYPES or x.layout != torch.strided:
        raise TypeError(
            'x must be a dense floating-point tensor (float16, bfloat16, float32 or float64), got '
            f'{getattr(x, "dtype", type(x).__name__)} {getattr(x, "layout", "")}'.rstrip()
        )
    # In a compiled graph sizes are symbols; the op checks them when it runs.
    if torch.compiler.is_compiling():
        return
    if x.dim() == 0 or x.shape[0] % T or x.shape[0] == 0:
        raise ValueError(
            f'the first dimension of x must hold T={T} time steps (T*B, time outermost), got shape {tuple(x.shape)}'
        )


def check_potential(v_init: Tensor | None, x: Tensor, T: int) -> None:
    """Raise TypeError or ValueError unless ``v_init`` is None or has the shape of one time step of ``x``."""
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


def check_tau(tau: Tensor, device: torch.device | None = None) -> None:
    """Raise ValueError unless a learned time constant is one floating-point number, on ``device`` if that is given."""
    if tau.numel() != 1 or not tau.is_floating_point():
        raise ValueError(f'a tensor tau must hold one floating-point number, got {tau.dtype} {tuple(tau.shape)}')
    if device is not None and tau.device != device:
        raise ValueError(f'a tensor tau must be on the device of x, {device}, got {tau.device}')


# Of the ops themselves, as csrc/call.h checks them --------------------------------------------------------------------


def check_dtype(dtype: torch.dtype) -> None:
    """Raise TypeError unless the ops know ``dtype``."""
    if dtype not in DTYPES:
        raise TypeError(f'expected float16, bfloat16, float32 or float64, got {dtype}')


def check_rows(x: Tensor, T: int) -> None:
    """Raise ValueError unless the first dimension of ``x`` holds T time steps, TypeError for its type."""
    if T < 1 or x.dim() < 1 or x.shape[0] % T:
        raise ValueError(f'the first dimension of x must hold T={T} time steps, got shape {tuple(x.shape)}')
    check_dtype(x.dtype)


def check_step(v: Tensor | None, x: Tensor, T: int) -> None:
    """Raise ValueError unless ``v``, a potential or its gradient, is None or has the size of one time step of ``x``."""
    if v is not None and v.numel() * T != x.numel():
        raise ValueError(f'a potential must hold one time step of x {tuple(x.shape)}, got {tuple(v.shape)}')


def check_gradient(grad: Tensor, x: Tensor) -> None:
    """Raise ValueError unless ``grad`` has the shape of the spikes of ``x``."""
    if grad.shape != x.shape:
        raise ValueError(f'the gradient of spikes {tuple(x.shape)} has the shape {tuple(grad.shape)}')
