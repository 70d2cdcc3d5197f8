"""What named neurons do during a forward: spikes, membrane potentials, rates."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import Tensor, nn

from mmsnn.layers.time import unfold

from .base import Neuron
from .firing import WRAPPERS
from .watched import SavedAside
from .watching import Watcher

WHAT = ('spikes', 'v', 'rate')
Recorded: TypeAlias = Tensor | list[Tensor] | dict[str, Tensor | list[Tensor]]


class record(Watcher, Mapping):
    """Context in which spikes, membrane potentials or rates of named neurons are kept, and the mapping that holds them.

    ::

        with mmsnn.record(model, 'backbone.layer1.0.neuron1', what='v') as recorded:
            model(images)
        recorded['backbone.layer1.0.neuron1']  # [T, B, C, H, W]

    The model runs as it would unwatched, norm and neuron in one op where they are; see `Watcher`. Nothing of the
    recording stays in it afterwards, and the mapping goes on holding what it recorded.

    Values carry gradients as the outputs of the network do, so that a loss may hold them; under `torch.no_grad` they
    have none. They take memory as long as the mapping lives, or until `clear`.

    ============ =============== =======================================================================================
    ``what``     shape           value
    ============ =============== =======================================================================================
    ``'spikes'`` ``[T, B, ...]`` what the neuron emits, in the type of its input; ILIF: integers
    ``'v'``      ``[T, B, ...]`` the membrane potential of every step before it fires and is reset, in float32 (float64)
    ``'rate'``   ``[B, ...]``    spikes a time step, mean over T; ILIF: the mean integer
    ============ =============== =======================================================================================

    Args:
        model: any network that holds neurons, also one compiled, in DDP, in a Distiller (the student's names) or
            Spikify.
        names: names of neurons as ``model.named_modules()`` gives them, or patterns: ``'backbone.layer1.*'``. Without
            any, all are meant.
        what: one of the above, or several.

    Returns:
        By name, in the order of the model: a tensor; where the neuron is called several times (one that several places
        share, or several forwards) a list of one for each call, in their order; for several ``what`` a dict of these.
        `calls` always gives lists.

    Raises:
        ValueError: a name fits no neuron (the message holds those like it), or ``what`` is unknown.
        KeyError: what is asked for was not recorded: the neuron was not called, or has another name.
        RuntimeError: in the forward pass, potentials of an ILIF after `expand_levels`, whose micro-steps have none.
        NotImplementedError: in the forward pass, potentials behind a SyncBatchNorm that trains in several processes,
            while norm and neuron run as one op.
    """

    def __init__(self, model: nn.Module, *names: str, what: str | tuple[str, ...] = 'spikes'):
        self.single = isinstance(what, str)
        self.what = (what,) if isinstance(what, str) else tuple(what)
        if not self.what or not set(self.what) <= set(WHAT):
            raise ValueError(f'what must be one or several of {", ".join(WHAT)}, got {what!r}')
        super().__init__(choose(model, names))
        self._calls: dict[str, list[dict[str, Tensor]]] = {name: [] for name in self.modules}

    def _see(self, name: str, neuron: Neuron, args: tuple, kwargs: dict, spikes: Tensor) -> None:
        given = {**dict(zip(('x', 'v_init', 'return_v', 'norm'), args)), **kwargs}
        # Activation checkpointing does not see what this saves, since it will not come here again.
        with SavedAside():
            self._calls[name].append(self._values(neuron, given, spikes))

    def _values(self, neuron: Neuron, given: dict, spikes: Tensor) -> dict[str, Tensor]:
        values = {}
        for what in self.what:
            if what == 'v':
                given.pop('return_v', None)
                values[what] = unfold(neuron.potentials(spikes=spikes, **given), neuron.T)
            else:
                steps = unfold(spikes, neuron.T)
                # a copy, because a later layer may add to it in place
                values[what] = steps.mean(0) if what == 'rate' else steps.clone()
        return values

    def calls(self, name: str, what: str | None = None) -> list[Tensor]:
        """What was recorded of a neuron in each of its calls; ``what`` may be left out where it is one thing alone."""
        if what is None and self.single:
            what = self.what[0]
        if what is None or what not in self.what:
            raise ValueError(f'what must be one of {", ".join(self.what)}, which are recorded, got {what!r}')
        if name not in self._calls:
            raise KeyError(f'{name} is not recorded; recorded: {", ".join(self._calls)}')
        if not self._calls[name]:
            raise KeyError(f'{name} was not called inside the context')
        return [each[what] for each in self._calls[name]]

    def clear(self) -> None:
        """Forget what was recorded."""
        for calls in self._calls.values():
            calls.clear()

    def __getitem__(self, name: str) -> Recorded:
        values: dict[str, Tensor | list[Tensor]] = {}
        for what in self.what:
            calls = self.calls(name, what)
            values[what] = calls[0] if len(calls) == 1 else calls
        return next(iter(values.values())) if self.single else values

    def __iter__(self) -> Iterator[str]:
        return (name for name, calls in self._calls.items() if calls)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        calls = ', '.join(f'{name}: {len(calls)} calls' for name, calls in self._calls.items())
        return f'record({", ".join(self.what)}; {calls})'


def choose(
    model: nn.Module, names: tuple[str, ...], kinds=Neuron, what: str = 'spiking neuron', inside: bool = False
) -> dict[str, nn.Module]:
    """The modules of ``kinds`` that ``names`` fit, in the order of the model, without what wrappers put into names.

    Args:
        model: any network.
        names: names or patterns; without any, all are meant.
        kinds: classes of the modules.
        what: what one of them is called in messages.
        inside: whether the name of a part of the model stands for all that it holds.

    Raises:
        ValueError: a name fits none of them, or the model holds none.
    """
    modules: dict[str, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        modules.setdefault(_plain(name), module)
    known = {name: m for name, m in modules.items() if isinstance(m, kinds)}
    if not known:
        raise ValueError(f'{type(model).__name__} holds no {what}')
    chosen = set()
    for name in names or ('*',):
        plain = _plain(name)
        fitting = [plain] if plain in known else [other for other in known if fnmatchcase(other, plain)]
        if inside and not fitting:
            fitting = [other for other in known if other.startswith(f'{plain}.')]
        if not fitting:
            raise ValueError(_unknown(model, name, plain, modules, known, what))
        chosen.update(fitting)
    result: dict[str, nn.Module] = {}
    for name, module in known.items():
        # A module that has several names is taken once by a pattern, and under every name that is given in full.
        if name in chosen and (name in names or module not in result.values()):
            result[name] = module
    return result


def _plain(name: str) -> str:
    return WRAPPERS.sub('', name).removeprefix('module.').rstrip('.')


def _unknown(model: nn.Module, name: str, plain: str, modules: dict, known: dict, what: str) -> str:
    inside = [other for other in known if other.startswith(f'{plain}.')]
    kind = what.split()[-1]
    if inside:
        return f"{name} is no {kind}, but holds {len(inside)}: {_few(inside)}. For all of them: '{name}.*'"
    if plain in modules:
        return f'{name} is a {type(modules[plain]).__name__}, no {what}'
    near = get_close_matches(plain, known, n=5, cutoff=0.5) or list(known)
    return f'{name!r} fits no {kind} of {type(model).__name__}; there are {_few(near)}'


def _few(names: list[str]) -> str:
    return ', '.join(names[:8]) + (f' and {len(names) - 8} more' if len(names) > 8 else '')
