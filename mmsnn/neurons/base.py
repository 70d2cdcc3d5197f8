"""The base class of all neurons."""

from typing import Any

import torch
from torch import Tensor, nn

from mmsnn.layers.time import TimeAware, check_encoded
from mmsnn.ops import NeuronSettings, bn_lif, lif, reference
from mmsnn.ops.layout import always_holds
from mmsnn.ops.neuron import NAMES, gather, takes_settings
from mmsnn.ops.surrogates import registered_derivative

from .norms import FUSABLE, count_batch, norm_arguments, normalised
from .watched import fire_apart, is_watched, sees_input

# From this number of elements on, one fused op is faster than two ops, whose calls cost less time on the host.
FUSE_FROM = 2**17


class Neuron(TimeAware, nn.Module):
    """A layer of spiking neurons as an activation: ``[T*B, ...]`` in, spikes of the same shape out.

    Neurons are stateless: membrane potentials start anew in every forward, so nothing needs a reset, and one module may
    be used at several places. For streaming, pass the membrane potential in and out.

    Args:
        T: number of time steps folded into the first dimension.
        fuse_norm: whether a spiking backbone runs this neuron and the batch norm before it as one op
            (`mmsnn.ops.bn_lif`) where that is faster, which also stores half as much for the backward pass: for all but
            small maps on a CPU; on a GPU in training, and not in the memory format channels_last.
        inplace: ignored; mmcv's ConvModule passes it to every activation.
        settings: settings of the neuron by name, as described in `mmsnn.NeuronSettings`; settings that are not given
            come from the class attribute ``defaults``.

    Attributes:
        settings: a `mmsnn.NeuronSettings`; make a changed copy by `dataclasses.replace`.
        owner: name of the neuron if it belongs to a backbone with an encoder; it then only fires in the forward of
            that backbone. None for a neuron outside of a backbone.
        events: the engine of `mmsnn.event_driven`, which runs the neuron where it can; None without one.

    Raises:
        TypeError, ValueError: a setting has the wrong type or is out of range; the message names it.
    """

    defaults = NeuronSettings()
    owner: str | None = None
    events = None

    @takes_settings
    def __init__(self, T: int = 4, *, fuse_norm: bool = True, inplace: bool = False, **settings):
        super().__init__()
        self.fuse_norm = fuse_norm
        self.settings, learned = gather(self.defaults, settings)
        if learned is not None:
            raise TypeError(f"tau must be a number, got {learned!r}; use type='PLIF' to learn the time constant")
        self.T = T

    def extra_repr(self) -> str:
        hidden = dict(levels=1, alpha=None, rounded=self.defaults.rounded)
        shown = {name: getattr(self.settings, name) for name in NAMES}
        return f'T={self.T}, ' + ', '.join(f'{k}={v}' for k, v in shown.items() if k not in hidden or v != hidden[k])

    @property
    def tau(self) -> float | Tensor | None:
        """Membrane time constant in time steps."""
        return self.settings.tau

    def learned(self) -> dict[str, Tensor]:
        """Settings that are learned parameters of the module, by the names of the ops' arguments."""
        return {}

    def forward(self, x: Tensor, v_init: Tensor | None = None, return_v: bool = False, norm: nn.Module | None = None):
        """Spikes for the input ``x`` ``[T*B, ...]``; with ``return_v`` also the last membrane potential ``[B, ...]``.

        Args:
            x: input current.
            v_init: initial membrane potential ``[B, ...]``; None starts at rest.
            return_v: whether to return the last membrane potential as well.
            norm: a batch norm to apply to ``x`` first, in the same op; `can_fuse` tells whether that is possible.

        Raises:
            ValueError: T does not divide the first dimension.
            TimeFoldingError: the neuron belongs to a backbone whose encoder did not run.
        """
        if self.owner is not None:
            check_encoded(self.owner, x, self.T)
        if self.events is not None and v_init is None and not return_v:
            spikes = self.events.fire(self, x, norm)
            if spikes is not None:
                return spikes
        if norm is None:
            return lif(x, self.T, self.settings, v_init=v_init, return_v=return_v, **self.learned())
        given: dict[str, Any] = dict(norm_arguments(norm), settings=self.settings, **self.learned())
        count_batch(norm)
        return bn_lif(x, self.T, **given, v_init=v_init, return_v=return_v)

    def potentials(
        self, x: Tensor, spikes: Tensor, v_init: Tensor | None = None, norm: nn.Module | None = None
    ) -> Tensor:
        """Membrane potential of every step before it fires and is reset: ``[T*B, ...]`` in float32 (float64).

        Args:
            x, v_init, norm: the arguments of `forward`. A hook gets ``norm`` in the keyword arguments
                (``with_kwargs=True``). A hook that takes none makes norm and neuron run as two ops, and its input is
                the output of the norm.
            spikes: the output of `forward`.
        """
        x = x if norm is None else normalised(norm, x)
        return reference.potentials(x, spikes, self.T, self.settings, v_init=v_init, **self.learned())

    def can_fuse(self, norm: nn.Module) -> bool:
        """Whether ``norm`` and this neuron can run as one op: ``norm`` is a batch norm, and no hook needs its output.

        Hooks of the norm need its output. Hooks of the neuron need its input, unless they take keyword arguments
        (``with_kwargs=True``): these are given ``norm``.
        """
        return self._fuses(norm) and not is_watched(norm) and not sees_input(self)

    def _fuses(self, norm: nn.Module) -> bool:
        # The fused op does not have the surrogates that users register.
        known = registered_derivative(self.settings.surrogate) is None
        return self.fuse_norm and known and type(norm) in FUSABLE

    def after_norm(self, norm: nn.Module, x: Tensor) -> Tensor:
        """``self(norm(x))``, as one op if possible and faster; ``norm`` may be a sequence that ends in a norm."""
        # a subclass may do something else than one layer after the other
        plain = isinstance(norm, nn.Sequential) and type(norm).forward is nn.Sequential.forward
        *layers, last = norm if plain else [norm]
        if not self._fuses(last):
            return self(norm(x))
        if is_watched(norm) or not self.can_fuse(last):
            return fire_apart(self, norm, last, x, _pays)
        for layer in layers:
            x = layer(x)
        noted = self.events is not None and self.events.notes(x)
        return self(x, norm=last) if noted or _pays(last, x) else self(last(x))


def _pays(norm: nn.Module, x: Tensor) -> bool:
    """Whether one op takes less time than two."""
    # Processes that share statistics must all use the same ops, whatever the sizes of their batches.
    if isinstance(norm, nn.SyncBatchNorm):
        return True
    large = x.numel() >= FUSE_FROM
    if x.is_cuda:
        # one op was slower in evaluation and in channels_last (H200, tools/benchmarks/results/lif_*_h200.json)
        large = large and norm.training and x.is_contiguous()
    # A graph that is compiled for all sizes uses two ops.
    return always_holds(large) if torch.compiler.is_compiling() else large
