"""What all neurons share: settings, T, and a call of the op."""

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

# elements from which on one op is faster than two, whose host time is less
FUSE_FROM = 2**17


class Neuron(TimeAware, nn.Module):
    """A layer of spiking neurons as an activation: ``[T*B, ...]`` in, spikes of the same shape out.

    Stateless: the membrane lives inside one forward, so one module may serve at several places and nothing needs a
    reset. For streaming, pass the membrane in and out.

    Args:
        T: time steps folded into the first dimension.
        fuse_norm: whether a spiking backbone runs this neuron and the batch norm in front of it as one op
            (`mmsnn.ops.bn_lif`), which is faster for all but small maps, and keeps half as much.
        inplace: accepted, because mmcv's ConvModule passes it to every activation, and ignored.
        settings: settings of the neuron by name, as `mmsnn.NeuronSettings` describes them; ``defaults`` of the class
            holds the others.

    Attributes:
        settings: a `mmsnn.NeuronSettings`, which `dataclasses.replace` changes.
        owner: the name of a neuron that belongs to a backbone with an encoder, and fires in its forward alone; None for
            one that stands free.
        events: the engine of `mmsnn.event_driven`, which runs the neuron in its stead where it can; None for none.

    Raises:
        TypeError, ValueError: a setting is of the wrong type or out of range; the message names it.
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
        """Settings that are parameters of the module, by the names under which the ops take them."""
        return {}

    def forward(self, x: Tensor, v_init: Tensor | None = None, return_v: bool = False, norm: nn.Module | None = None):
        """Spikes of ``x`` ``[T*B, ...]``; with ``return_v`` also the last potential ``[B, ...]``.

        Args:
            x: input current.
            v_init: initial potential.
            return_v: also return the last potential.
            norm: batch norm that ``x`` has still to pass, as `can_fuse` allows.

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
        """Membrane potential of every step before it fires and is reset, ``[T*B, ...]``, in float32 (float64).

        Args:
            x, v_init, norm: what `forward` was given. A hook gets ``norm`` among the keyword arguments
                (``with_kwargs=True``); without them the neuron is given what the norm has made of ``x``.
            spikes: what `forward` gave.
        """
        x = x if norm is None else normalised(norm, x)
        return reference.potentials(x, spikes, self.T, self.settings, v_init=v_init, **self.learned())

    def can_fuse(self, norm: nn.Module) -> bool:
        """Whether ``norm`` and this neuron may run as one op: a plain batch norm, and nobody watches what is between.

        Hooks of the norm watch its output. Those of the neuron watch its input, unless they take keyword arguments
        (``with_kwargs=True``), and so are given ``norm``.
        """
        return self._fuses(norm) and not is_watched(norm) and not sees_input(self)

    def _fuses(self, norm: nn.Module) -> bool:
        # the op knows no surrogate that users registered
        known = registered_derivative(self.settings.surrogate) is None
        return self.fuse_norm and known and type(norm) in FUSABLE

    def after_norm(self, norm: nn.Module, x: Tensor) -> Tensor:
        """``self(norm(x))``, in one op where that is possible and pays; ``norm`` may be a sequence that ends in one."""
        *layers, last = norm if isinstance(norm, nn.Sequential) else [norm]
        if not self._fuses(last):
            return self(norm(x))
        if is_watched(norm) or not self.can_fuse(last):
            return fire_apart(self, norm, last, x, _pays)
        for layer in layers:
            x = layer(x)
        return self(x, norm=last) if _pays(last, x) else self(last(x))


def _pays(norm: nn.Module, x: Tensor) -> bool:
    """Whether one op takes less time than two."""
    # processes that share statistics must all take the same way, whatever the size of their batches
    if isinstance(norm, nn.SyncBatchNorm):
        return True
    large = x.numel() >= FUSE_FROM
    # a graph for every size takes two ops
    return always_holds(large) if torch.compiler.is_compiling() else large
