"""Names of surrogates: ours, SpikingJelly's for the same functions, and those that users register."""

from collections.abc import Callable
from difflib import get_close_matches

import torch
from torch import Tensor

# by our names, with SpikingJelly's meaning and default of alpha
SURROGATES = {'triangle': 1.0, 'atan': 2.0, 'sigmoid': 4.0, 'rectangle': 1.0}
# SpikingJelly's names of its modules and functions, where function and default of alpha are ours
ALIASES = {
    'ATan': 'atan',
    'PiecewiseQuadratic': 'triangle',
    'piecewise_quadratic': 'triangle',
    'Rect': 'rectangle',
    'rect': 'rectangle',
    'Sigmoid': 'sigmoid',
}
# SpikingJelly's others
ELSEWHERE = (
    'DeterministicPass', 'Erf', 'FakeNumericalGradient', 'LeakyKReLU', 'LogTailedReLU', 'MultiLevelSpikeCount',
    'NonzeroSignLogAbs', 'PiecewiseExp', 'PiecewiseLeakyReLU', 'PoissonPass', 'QPseudoSpike', 'S2NN', 'SoftSign',
    'SquarewaveFourierSeries', 'SuperSpike', 'erf', 'piecewise_exp', 'soft_sign', 'super_spike',
)  # fmt: skip

Derivative = Callable[[Tensor, float], Tensor]
_registered: dict[str, tuple[Derivative, float]] = {}


def register_surrogate(name: str, derivative: Derivative, alpha: float = 1.0, replace: bool = False) -> None:
    """Give neurons a surrogate of one's own: ``neuron=dict(type='LIF', surrogate=name, alpha=...)``.

    ::

        def gaussian(u, alpha):
            return alpha * torch.exp(-math.pi * (alpha * u) ** 2)


        mmsnn.register_surrogate('gaussian', gaussian)

    Such neurons run in plain PyTorch, apart from their norms: the compiled kernels know their own surrogates alone.
    Models and checkpoints hold the name, so the process that loads them registers it, too; in a config,
    ``custom_imports=dict(imports=['my_surrogates'])`` imports the module that does.

    Args:
        name: a new name.
        derivative: takes ``u`` (the potential minus the threshold, any shape) and ``alpha``, and gives what stands in
            for the derivative of the step at 0, in the shape of ``u``. In ILIF, ``u`` is the distance to each step
            between two integers, in units of the threshold.
        alpha: default steepness.
        replace: whether a name that was registered before may be given another derivative.

    Raises:
        TypeError: ``name`` is no text, ``alpha`` no number, ``derivative`` cannot be called with a tensor and a number,
            or gives no floating-point tensor.
        ValueError: the name is taken, ``alpha`` is not above 0, or ``derivative`` gives another shape or values that
            are not finite.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f'the name of a surrogate must be text, got {name!r}')
    if name in SURROGATES or name in ALIASES or name in ELSEWHERE:
        raise ValueError(f'surrogate {name!r} is the name of a function of mmsnn or SpikingJelly: choose another one')
    if name in _registered and _registered[name] != (derivative, alpha) and not replace:
        raise ValueError(f'surrogate {name!r} is registered already: choose another name, or set replace=True')
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        raise TypeError(f'surrogate {name!r}: alpha must be a number, got {alpha!r}')
    if not 0 < alpha < float('inf'):
        raise ValueError(f'surrogate {name!r}: alpha must be finite and above 0, got {alpha!r}')
    _try(name, derivative, float(alpha))
    _registered[name] = derivative, float(alpha)


def _try(name: str, derivative: Derivative, alpha: float) -> None:
    u = torch.linspace(-2, 2, 10).view(2, 5)
    try:
        given = derivative(u.clone(), alpha)
    except TypeError as error:
        raise TypeError(
            f'surrogate {name!r}: derivative(u, alpha) takes a tensor and a number, and calling it so fails: {error}'
        ) from error
    if not isinstance(given, Tensor) or not given.is_floating_point():
        kind = given.dtype if isinstance(given, Tensor) else type(given).__name__
        raise TypeError(f'surrogate {name!r}: derivative(u, alpha) must give a floating-point tensor, got {kind}')
    if given.shape != u.shape:
        raise ValueError(
            f'surrogate {name!r}: derivative(u, alpha) must give one number for each of u {tuple(u.shape)}, got '
            f'{tuple(given.shape)}'
        )
    if not given.isfinite().all():
        raise ValueError(f'surrogate {name!r}: derivative(u, alpha={alpha}) is not finite between u=-2 and u=2')


def resolve_surrogate(name: str) -> str:
    """Our name for ``name``, or the registered one.

    Raises:
        TypeError: ``name`` is no text.
        ValueError: there is no such surrogate; the message names what there is, and what is near.
    """
    if not isinstance(name, str):
        raise TypeError(f'surrogate must be a name, got {name!r}')
    name = ALIASES.get(name, name)
    if name in SURROGATES or name in _registered:
        return name
    known = [*SURROGATES, *_registered]
    if name in ELSEWHERE:
        raise ValueError(
            f'surrogate {name!r} of SpikingJelly has no counterpart here: take one of {", ".join(known)}, or register '
            'its derivative with mmsnn.register_surrogate'
        )
    # our names last, so that they win where another library's differs in its case alone
    near = {each.lower(): each for each in (*ALIASES, *known)}
    match = get_close_matches(name.lower(), near, n=1)
    hint = f', did you mean {near[match[0]]!r}?' if match else ''
    raise ValueError(
        f'surrogate must be one of {", ".join(known)}, got {name!r}{hint} (one of your own is registered with '
        'mmsnn.register_surrogate, in the process that uses it)'
    )


def default_alpha(name: str) -> float:
    """Steepness of the surrogate ``name`` where none is given."""
    return SURROGATES[name] if name in SURROGATES else _registered[name][1]


def registered_derivative(name: str) -> Derivative | None:
    """The derivative of a surrogate that was registered; None for ours."""
    return _registered[name][0] if name in _registered else None
