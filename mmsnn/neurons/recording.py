"""Recording the spikes, membrane potentials and rates of named neurons."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import Tensor, nn

from mmsnn.layers.time import unfold
from mmsnn.listing import some

from .base import Neuron
from .firing import WRAPPERS
from .watched import SavedAside
from .watching import Watcher

WHAT = ('spikes', 'v', 'rate')
Recorded: TypeAlias = Tensor | list[Tensor] | dict[str, Tensor | list[Tensor]]


class record(Watcher, Mapping):
    """Context that records spikes, membrane potentials or rates of named neurons; also the mapping that holds them.

    ::

        with mmsnn.record(model, 'backbone.layer1.0.neuron1', what='v') as recorded:
            model(images)
        recorded['backbone.layer1.0.neuron1']  # [T, B, C, H, W]

    The model runs as it would without recording: norm and neuron that run as one op still do; see `Watcher`. After the
    context the model has no hooks any more, and the mapping keeps what it recorded.

    Values carry gradients as the outputs of the network do, so that a loss may use them; under `torch.no_grad` they
    have none. They take memory as long as the mapping exists, or until `clear`.

    ============ =============== =======================================================================================
    ``what``     shape           value
    ============ =============== =======================================================================================
    ``'spikes'`` ``[T, B, ...]`` output of the neuron, in the type of its input; ILIF: integers
    ``'v'``      ``[T, B, ...]`` the membrane potential of every step before it fires and is reset, in float32 (float64)
    ``'rate'``   ``[B, ...]``    spikes per time step, mean over T; ILIF: the mean integer
    ============ =============== =======================================================================================

    Args:
        model: any network with neurons; it may be compiled, in DDP, a Distiller (use the student's names) or Spikify.
        names: names of neurons as in ``model.named_modules()``, or patterns: ``'backbone.layer1.*'``. Without names,
            all neurons are recorded.
        what: one value of the table, or several.

    Returns:
        By name, in the order of the model, a tensor; or a list with one tensor per call, if the neuron was called
        several times (a shared neuron, or several forwards). Several ``what`` give a dict of these. `calls` always
        returns lists.

    Raises:
        ValueError: a name matches no neuron (the message lists similar names), or ``what`` is unknown.
        KeyError: a neuron is looked up that was not called, or under a name that was not recorded.
        RuntimeError: in the forward pass: potentials of an ILIF after `expand_levels`, whose micro-steps have none.
        NotImplementedError: in the forward pass: potentials after a SyncBatchNorm that trains in several processes,
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
        # These tensors are hidden from activation checkpointing, because its second forward does not record again.
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
                # A copy, because a later layer may add to the spikes in place.
                values[what] = steps.mean(0) if what == 'rate' else steps.clone()
        return values

    def calls(self, name: str, what: str | None = None) -> list[Tensor]:
        """The values of a neuron, one per call; ``what`` may be left out if only one kind is recorded."""
        if what is None and self.single:
            what = self.what[0]
        if what is None or what not in self.what:
            raise ValueError(f'what must be one of the recorded {", ".join(self.what)}, got {what!r}')
        if name not in self._calls:
            raise KeyError(f'{name} is not recorded; recorded: {", ".join(self._calls)}')
        if not self._calls[name]:
            raise KeyError(f'{name} was not called inside the context')
        return [each[what] for each in self._calls[name]]

    def clear(self) -> None:
        """Drop all recorded values."""
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
    """The modules of ``kinds`` that match ``names``, in the order of the model.

    Their names are returned without the parts that wrappers (DDP, torch.compile, FSDP) add.

    Args:
        model: any network.
        names: names or patterns; without names, all modules of ``kinds`` are returned.
        kinds: class or classes of the modules.
        what: what messages call one of them.
        inside: whether the name of any other module selects all modules of ``kinds`` in it.

    Raises:
        ValueError: a name matches no module, or the model has none of ``kinds``.
    """
    modules: dict[str, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        modules.setdefault(_plain(name), module)
    known = {name: m for name, m in modules.items() if isinstance(m, kinds)}
    if not known:
        raise ValueError(f'{type(model).__name__} has no {what}')
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
        # A pattern takes a module with several names once; every name that is given in full is taken.
        if name in chosen and (name in names or module not in result.values()):
            result[name] = module
    return result


def _plain(name: str) -> str:
    return WRAPPERS.sub('', name).removeprefix('module.').rstrip('.')


def _unknown(model: nn.Module, name: str, plain: str, modules: dict, known: dict, what: str) -> str:
    inside = [other for other in known if other.startswith(f'{plain}.')]
    kind = what.split()[-1]
    if inside:
        return f"{name} is not a {kind}, but holds {len(inside)}: {some(inside, 8)}. For all of them: '{name}.*'"
    if plain in modules:
        return f'{name} is a {type(modules[plain]).__name__}, not a {what}'
    near = get_close_matches(plain, known, n=5, cutoff=0.5) or list(known)
    return f'{name!r} matches no {kind} of {type(model).__name__}; there are {some(near, 8)}'
