"""The settings of a neuron: what each means, its default, its check, and the numbers by which the kernels know it."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from .checks import check_flag, check_number, check_tau, check_time_steps
from .surrogates import SURROGATES, default_alpha, registered_derivative, resolve_surrogate

F = TypeVar('F', bound=Callable)
# bfloat16 and packed spikes hold larger integers inexactly or not at all
MOST_LEVELS = 255
# in the order of the enumerations in csrc/lif.h; there, surrogates stand in the order of SURROGATES
LEAKS = ('none', 'decay_input', 'keep_input')
FIRES = ('binary', 'levels', 'smooth')


@dataclass(frozen=True)
class NeuronSettings:
    """How a neuron charges, fires and resets; `mmsnn.ops.reference` holds the equations.

    `mmsnn.ops.lif`, `mmsnn.ops.bn_lif` and the modules of `mmsnn.neurons` take these as keywords; the two ops take the
    object as well, which is then checked and encoded for the kernels once. `dataclasses.replace` gives a changed copy.

    Args:
        tau: membrane time constant in time steps, at least 1. None: no leak (IF). A time constant that is learned is
            no setting; the ops take a tensor ``tau`` beside the settings.
        v_threshold: firing threshold, above 0.
        v_reset: potential after a spike (hard reset), below ``v_threshold``. None: a spike subtracts the threshold
            (soft reset).
        decay_input: whether the input is divided by ``tau`` as well.
        detach_reset: whether the gradient through the reset is cut.
        surrogate: ``triangle`` (piecewise quadratic), ``atan``, ``sigmoid`` or ``rectangle``; SpikingJelly's names
            (``ATan``, ``PiecewiseQuadratic`` ...) stand for the same; or a name given to `mmsnn.register_surrogate`.
        alpha: steepness of the surrogate as in SpikingJelly, above 0. None: the surrogate's default, which is 1, 2, 4
            and 1 in the order above.
        levels: largest number of spikes in one time step, 1 to 255. D > 1 emits integers 0..D (I-LIF, Luo et al., ECCV
            2024) and needs ``v_reset=None``.
        rounded: with ``levels=1``, whether the neuron fires where ``h / v_threshold`` rounds to 1, as I-LIF does, and
            not from the threshold on; needs ``v_reset=None``.

    Attributes:
        encoded: ``kind`` and ``values`` as the kernels take them; None for a registered surrogate, which they do not
            know.

    Raises:
        TypeError: a setting has the wrong type.
        ValueError: a setting is out of its range, the surrogate is unknown, or a hard reset meets ``levels > 1`` or
            ``rounded``.
    """

    tau: float | None = 2.0
    v_threshold: float = 1.0
    v_reset: float | None = 0.0
    decay_input: bool = True
    detach_reset: bool = False
    surrogate: str = 'atan'
    alpha: float | None = None
    levels: int = 1
    rounded: bool = False
    encoded: tuple[list[int], list[float]] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check()
        object.__setattr__(self, 'surrogate', resolve_surrogate(self.surrogate))
        known = registered_derivative(self.surrogate) is None
        object.__setattr__(self, 'encoded', self.encode() if known else None)

    def _check(self) -> None:
        compiling = torch.compiler.is_compiling()
        check_flag('decay_input', self.decay_input)
        check_flag('detach_reset', self.detach_reset)
        check_number('v_threshold', self.v_threshold, positive=True)
        if self.tau is not None:
            check_number('tau', self.tau)
            if not compiling and self.tau < 1:
                raise ValueError(f'tau must be at least 1 time step (None for IF), got {self.tau}')
        if self.v_reset is not None:
            check_number('v_reset', self.v_reset)
            if not compiling and self.v_reset >= self.v_threshold:
                raise ValueError(
                    f'v_reset must lie below v_threshold={self.v_threshold} (None for a soft reset), got {self.v_reset}'
                )
        if self.alpha is not None:
            check_number('alpha', self.alpha, positive=True)
        check_time_steps(self.levels, 'levels')
        if self.levels > MOST_LEVELS:
            raise ValueError(f'levels must be at most {MOST_LEVELS}, got {self.levels}')
        check_flag('rounded', self.rounded)
        if self.rounds and self.v_reset is not None:
            raise ValueError(f'levels={self.levels} needs the soft reset: set v_reset=None (got {self.v_reset})')

    @property
    def rounds(self) -> bool:
        """Whether the neuron emits ``h / v_threshold`` rounded, instead of firing from the threshold on."""
        return self.levels > 1 or self.rounded

    @property
    def v_rest(self) -> float:
        """Potential at which the membrane starts and to which it leaks."""
        return 0.0 if self.v_reset is None else self.v_reset

    @property
    def steepness(self) -> float:
        """``alpha``, or the surrogate's default."""
        return default_alpha(self.surrogate) if self.alpha is None else self.alpha

    def encode(self, smooth: bool = False) -> tuple[list[int], list[float]]:
        """The neuron as the kernels know it.

        Args:
            smooth: whether the surrogate's integral stands in for the spike, for checks of gradients.

        Returns:
            ``kind``: leak, reset, surrogate, fire, levels and detach_reset, as csrc/lif.h numbers them; ``values``:
            1 / tau, v_threshold, v_rest and alpha.
        """
        leak = 'none' if self.tau is None else 'decay_input' if self.decay_input else 'keep_input'
        fire = 'smooth' if smooth else 'levels' if self.rounds else 'binary'
        kind = [
            LEAKS.index(leak),
            int(self.v_reset is None),
            list(SURROGATES).index(self.surrogate),
            FIRES.index(fire),
            int(self.levels),
            int(self.detach_reset),
        ]
        rate = 0.0 if self.tau is None else 1 / self.tau
        return kind, [float(n) for n in (rate, self.v_threshold, self.v_rest, self.steepness)]


def decode(kind: list[int], values: list[float]) -> tuple[NeuronSettings, bool]:
    """The settings that `NeuronSettings.encode` has encoded, and its ``smooth``; ValueError for other numbers."""
    return _decoded(tuple(kind), tuple(values))


@functools.lru_cache(maxsize=1024)
def _decoded(kind: tuple[int, ...], values: tuple[float, ...]) -> tuple[NeuronSettings, bool]:
    if len(kind) != 6 or len(values) != 4:
        raise ValueError(f'expected 6 numbers in kind and 4 in values, got {list(kind)} and {list(values)}')
    leak, soft, surrogate, fire, levels, detach_reset = kind
    ends = (len(LEAKS), 2, len(SURROGATES), len(FIRES), MOST_LEVELS + 1, 2)
    if any(not 0 <= n < end for n, end in zip(kind, ends)):
        raise ValueError(f'unknown kind of neuron {list(kind)}')
    if FIRES[fire] == 'binary' and levels > 1:
        raise ValueError(f'levels={levels} of a neuron that fires or not: {list(kind)}')
    rate, v_threshold, v_rest, alpha = values
    if soft and v_rest != 0:
        raise ValueError(f'v_rest must be 0 with the soft reset, got {v_rest}')
    if LEAKS[leak] != 'none' and not 0 < rate <= 1:
        raise ValueError(f'a neuron that leaks needs 1 / tau above 0 and at most 1, got {rate}')
    settings = NeuronSettings(
        tau=None if LEAKS[leak] == 'none' else 1 / rate,
        v_threshold=v_threshold,
        v_reset=None if soft else v_rest,
        decay_input=LEAKS[leak] == 'decay_input',
        detach_reset=bool(detach_reset),
        surrogate=list(SURROGATES)[surrogate],
        alpha=alpha,
        levels=levels,
        rounded=FIRES[fire] == 'levels',
    )
    return settings, FIRES[fire] == 'smooth'


def neuron_of(kind: list[int], values: list[float], tau: Tensor | None) -> tuple[NeuronSettings, Tensor | None, bool]:
    """The neuron that an op is given: settings, learned time constant (None without a leak), and ``smooth``.

    Raises:
        ValueError: the numbers are those of no neuron, or ``tau`` holds another number of elements than one.
    """
    settings, smooth = decode(kind, values)
    if tau is not None and tau.numel() != 1:
        raise ValueError(f'a tensor tau must hold one number, got shape {tuple(tau.shape)}')
    return settings, None if settings.tau is None else tau, smooth


# Settings as keywords -------------------------------------------------------------------------------------------------

NAMES = tuple(f.name for f in fields(NeuronSettings) if f.init)


def takes_settings(function: F) -> F:
    """Show in the signature of ``function`` the settings that it takes as ``**keywords``, each with its default."""
    signature = inspect.signature(function)
    shown = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    there = {p.name for p in shown}
    for each in fields(NeuronSettings):
        if each.init and each.name not in there:
            keyword = inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default)
            shown.append(keyword.replace(annotation=each.type))
    vars(function)['__signature__'] = signature.replace(parameters=shown)
    return function


def gather(
    settings: NeuronSettings | None, keywords: dict[str, Any], device: torch.device | None = None
) -> tuple[NeuronSettings, Tensor | None]:
    """One object of ``settings`` (None: the defaults) and ``keywords`` that replace some; and a learned time constant.

    Args:
        settings: what holds where no keyword says otherwise.
        keywords: settings by name; a tensor ``tau`` is learned.
        device: where a learned time constant must be; None: anywhere.

    Raises:
        TypeError: ``settings`` is no `NeuronSettings`, a keyword is no setting, or its value has the wrong type.
        ValueError: a value is out of its range.
    """
    if settings is not None and not isinstance(settings, NeuronSettings):
        raise TypeError(f'settings must be a NeuronSettings, got {settings!r}; single settings go by name: tau=2.0')
    learned = None
    if isinstance(keywords.get('tau'), Tensor):
        learned = keywords['tau']
        check_tau(learned, device)
        keywords = {name: value for name, value in keywords.items() if name != 'tau'}
        # The tensor is the time constant, so the settings must be those of a leaky neuron.
        if settings is not None and settings.tau is None:
            keywords['tau'] = 2.0
    if not keywords:
        return DEFAULT if settings is None else settings, learned
    # A compiler would trace through the cache anyway, with a warning.
    if torch.compiler.is_compiling():
        return _replaced(settings, *keywords, *keywords.values()), learned
    try:
        return _replaced_before(settings, *keywords, *keywords.values()), learned
    # A value that has no hash is not in the cache; its check says what is wrong with it.
    except TypeError:
        return _replaced(settings, *keywords, *keywords.values()), learned


def _replaced(settings: NeuronSettings | None, *given) -> NeuronSettings:
    names, values = given[: len(given) // 2], given[len(given) // 2 :]
    if unknown := [name for name in names if name not in NAMES]:
        raise TypeError(f'{", ".join(unknown)}: no setting of a neuron; the settings are {", ".join(NAMES)}')
    return replace(DEFAULT if settings is None else settings, **dict(zip(names, values)))


# With types, since 1, 1.0 and True are equal keys.
_replaced_before = functools.lru_cache(maxsize=1024, typed=True)(_replaced)
DEFAULT = NeuronSettings()
