"""What named neurons do during a forward: spikes, membrane potentials, rates."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import Tensor, nn

from mmsnn.layers.time import in_backward, unfold

from .base import Neuron
from .firing import WRAPPERS
from .watched import SavedAside, run_eagerly

WHAT = ('spikes', 'v', 'rate')
Recorded = Tensor | list[Tensor] | dict[str, Tensor | list[Tensor]]


class record(Mapping):
    """Context in which spikes, membrane potentials or rates of named neurons are kept, and the mapping that holds them.

    ::

        with mmsnn.record(model, 'backbone.layer1.0.neuron1', what='v') as found:
            model(images)
        found['backbone.layer1.0.neuron1']  # [T, B, C, H, W]

    The model runs as it would unwatched, norm and neuron in one op where they are; nothing of the recording stays in it
    afterwards, and the mapping goes on holding what it found. Compiled parts of a model run as plain PyTorch meanwhile,
    because compiled code passes hooks by. What activation checkpointing repeats in the backward pass is no call.

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
        self.what = (what,) if self.single else tuple(what)
        if not self.what or not set(self.what) <= set(WHAT):
            raise ValueError(f'what must be one or several of {", ".join(WHAT)}, got {what!r}')
        self._neurons = choose(model, names)
        self._found: dict[str, list[dict[str, Tensor]]] = {name: [] for name in self._neurons}
        self._handles, self._eager = [], None

    def __enter__(self) -> 'record':
        self._eager = run_eagerly()
        self._eager.__enter__()
        # with keyword arguments, because hooks without them part the neuron from its norm
        self._handles = [
            m.register_forward_hook(self._hook(name), with_kwargs=True) for name, m in self._neurons.items()
        ]
        return self

    def __exit__(self, *exception) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._eager.__exit__(*exception)

    def _hook(self, name: str):
        def keep(neuron, args, kwargs, output):
            if in_backward():
                return
            given = {**dict(zip(('x', 'v_init', 'return_v', 'norm'), args)), **kwargs}
            spikes = output[0] if isinstance(output, tuple) else output
            # checkpointing does not see the tensors that this saves, since it will not see this again
            with SavedAside():
                self._found[name].append(self._values(neuron, given, spikes))

        return keep

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
        """What was found of a neuron in each of its calls; ``what`` may be left out where it is one thing alone."""
        if what is None and self.single:
            (what,) = self.what
        if what not in self.what:
            raise ValueError(f'what must be one of {", ".join(self.what)}, which are recorded, got {what!r}')
        if name not in self._found:
            raise KeyError(f'{name} is not recorded; recorded: {", ".join(self._found)}')
        if not self._found[name]:
            raise KeyError(f'{name} was not called inside the context')
        return [each[what] for each in self._found[name]]

    def clear(self) -> None:
        """Forget what was found."""
        for found in self._found.values():
            found.clear()

    def __getitem__(self, name: str) -> Recorded:
        found = {}
        for what in self.what:
            calls = self.calls(name, what)
            found[what] = calls[0] if len(calls) == 1 else calls
        return next(iter(found.values())) if self.single else found

    def __iter__(self) -> Iterator[str]:
        return (name for name, found in self._found.items() if found)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        calls = ', '.join(f'{name}: {len(found)} calls' for name, found in self._found.items())
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
    modules = {}
    for name, module in model.named_modules(remove_duplicate=False):
        modules.setdefault(_plain(name), module)
    known = {name: m for name, m in modules.items() if isinstance(m, kinds)}
    if not known:
        raise ValueError(f'{type(model).__name__} holds no {what}')
    chosen = set()
    for name in names or ('*',):
        plain = _plain(name)
        found = [plain] if plain in known else [other for other in known if fnmatchcase(other, plain)]
        if inside and not found:
            found = [other for other in known if other.startswith(f'{plain}.')]
        if not found:
            raise ValueError(_unknown(model, name, plain, modules, known, what))
        chosen.update(found)
    found, taken = {}, set()
    for name, module in known.items():
        # one module of several names is taken once by patterns, by its own name always
        if name in chosen and (name in names or module not in taken):
            taken.add(module)
            found[name] = module
    return found


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
