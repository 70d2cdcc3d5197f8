"""Firing rates of neuron layers, and which layers and channels never fire."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from mmsnn.listing import some

from .base import Neuron
from .watching import Watcher

# Parts that torch.compile and FSDP add to the names of modules.
WRAPPERS = re.compile(r'(?<![^.])(_orig_mod|_fsdp_wrapped_module)(\.|$)')
# A layer is nearly silent if more than this share of its channels never fired.
NEARLY = 0.9
# Largest number of names in a warning.
SHOWN = 20
REMEDY = (
    'lower their v_threshold, put a batch norm in front of them (TDBN, in configs norm_cfg=dict(type='
    "'mmsnn.TDBN', v_threshold=...), starts at the threshold), or start from larger weights (init_cfg)."
)


@dataclass(frozen=True)
class LayerFiring:
    """The firing of one layer of neurons.

    Attributes:
        rate: mean number of spikes per neuron and time step; for ILIF the mean integer, between 0 and D.
        channels: number of channels of its output; places of a module with equal numbers of
            channels share them, and a channel is silent that fired at none of them.
        silent_channels: number of channels that never fired.
        updates: number of neurons x time steps x images.
        v_threshold: threshold of the neurons.
    """

    rate: float
    channels: int
    silent_channels: int
    updates: int
    v_threshold: float

    @property
    def silent(self) -> bool:
        """Whether no neuron fired."""
        return self.silent_channels == self.channels

    @property
    def nearly_silent(self) -> bool:
        """Whether neurons fired, but in less than a tenth of the channels."""
        return NEARLY * self.channels < self.silent_channels < self.channels


class FiringRates(Mapping):
    """Firing rates by the names of the neuron layers, in the order of their first calls.

    Attributes:
        layers: a `LayerFiring` per layer, by name.
        blank_norms: number of batch norms in eval mode that were never trained, and so normalise nothing.
    """

    def __init__(self, layers: dict[str, LayerFiring], blank_norms: int = 0):
        self.layers = layers
        self.blank_norms = blank_norms

    def __getitem__(self, name: str) -> float:
        return self.layers[name].rate

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        return f'FiringRates({dict(self)})'

    @property
    def mean(self) -> float:
        """Spikes per neuron and time step, over all neurons of the network."""
        updates = sum(layer.updates for layer in self.layers.values())
        return sum(layer.rate * layer.updates for layer in self.layers.values()) / updates if updates else 0.0

    @property
    def silent_channels(self) -> float:
        """Share of channels that never fired, among those of all layers."""
        total = sum(layer.channels for layer in self.layers.values())
        return sum(layer.silent_channels for layer in self.layers.values()) / total if total else 0.0

    @property
    def silent(self) -> list[str]:
        """Names of the layers in which no neuron fired."""
        return [name for name, layer in self.layers.items() if layer.silent]

    @property
    def nearly_silent(self) -> list[str]:
        """Names of the layers in which neurons fired, but in less than a tenth of the channels."""
        return [name for name, layer in self.layers.items() if layer.nearly_silent]

    def warning(self, names: list[str] | None = None) -> str | None:
        """A warning about the layers (among ``names``) that are silent or nearly so, with remedies; None without."""
        concerned = [*self.silent, *self.nearly_silent]
        names = concerned if names is None else [name for name in concerned if name in names]
        if not names:
            return None
        silent = [name for name in names if self.layers[name].silent]
        nearly = [name for name in names if name not in silent]
        parts = []
        if silent:
            parts.append(
                f'{len(silent)} of {len(self)} neuron layers are silent, no neuron fired: {some(silent, SHOWN)}'
            )
        if nearly:
            shares = {n: f'{self.layers[n].silent_channels} of {self.layers[n].channels}' for n in nearly}
            shown = some([f'{name} ({share})' for name, share in shares.items()], SHOWN)
            parts.append(
                f'{len(nearly)} of {len(self)} neuron layers are nearly silent, channels that never fired: {shown}'
            )
        thresholds = ', '.join(f'{v:g}' for v in sorted({self.layers[name].v_threshold for name in names}))
        said = (
            f'{"; ".join(parts)} (v_threshold {thresholds}). The layers after them get no input, and hardly any '
            'gradient passes through them. '
        )
        if not self.blank_norms:
            return said + REMEDY[0].upper() + REMEDY[1:]
        return (
            f'{said}{self.blank_norms} batch norms are in eval mode and have seen no batch (num_batches_tracked is 0), '
            f'so they normalise nothing: load a checkpoint, or train before you measure. Otherwise: {REMEDY}'
        )

    def table(self) -> Table:
        """The rates as a table for ``rich.print``, with silent layers marked."""
        table = Table(
            title='Firing rates',
            caption=self.warning() or f'{self.silent_channels:.1%} of the channels never fired',
            caption_justify='left',
        )
        table.add_column('layer', overflow='fold', min_width=20)
        table.add_column('spikes per neuron and step', justify='right')
        table.add_column('channels that never fired', justify='right')
        table.add_column('')
        for name, layer in self.layers.items():
            silent = f'{layer.silent_channels} of {layer.channels}'
            mark = 'silent' if layer.silent else 'nearly silent' if layer.nearly_silent else ''
            table.add_row(name, f'{layer.rate:.4f}', silent, mark)
        return table


class SpikeCounter(Watcher):
    """Context that counts the spikes of the neurons of ``model``; opened several times, it adds up.

    Norm and neuron still run as one op, and calls that activation checkpointing repeats do not count; see `Watcher`.
    Each call of a neuron costs one sum over its spikes, without gradients and without synchronising the device.

    Example::

        with SpikeCounter(model) as counter:
            model(images)
        print(counter.rates().silent)
    """

    def __init__(self, model: nn.Module):
        super().__init__({})
        self.axes: dict[str, int] = {}
        self._thresholds: dict[str, float] = {}
        # By name and number of channels, because a module may be used at several places.
        self._spikes: dict[str, dict[int, Tensor]] = {}
        self._updates: dict[str, int] = {}
        self._norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        self._frozen: list[nn.Module] = []
        axis = 1
        for name, module in model.named_modules():
            if isinstance(module, (nn.Linear, nn.LayerNorm)):
                axis = -1
            elif isinstance(module, _ConvNd):
                axis = 1
            elif isinstance(module, Neuron):
                name = WRAPPERS.sub('', name).rstrip('.')
                self.modules[name], self.axes[name] = module, axis

    def __len__(self) -> int:
        """Number of neuron layers in the model."""
        return len(self.modules)

    @property
    def counting(self) -> bool:
        """Whether the context is open."""
        return bool(self._handles)

    def __exit__(self, *exception) -> None:
        super().__exit__(*exception)
        self._frozen = [norm for norm in self._norms if not norm.training]

    def _see(self, name: str, neuron: Neuron, args: tuple, kwargs: dict, spikes: Tensor) -> None:
        self.add(name, neuron, spikes)

    @torch.no_grad()
    def add(self, name: str, neuron: Neuron, spikes: Tensor) -> None:
        """Count the output of ``neuron`` in one call; an expanded ILIF emits 0 and D, where D is one spike."""
        spikes = spikes.detach()
        if spikes.dim() == 1:
            spikes = spikes[:, None]
        if getattr(neuron, 'expanded', False):
            spikes = spikes != 0
        axis = _channel_axis(spikes, neuron.T, self.axes[name])
        others = [i for i in range(spikes.dim()) if i != axis]
        # float32 is exact for whole numbers up to 2**24.
        counts = spikes.sum(others, dtype=torch.float32) if others else spikes.float()
        by_channels = self._spikes.setdefault(name, {})
        by_channels[len(counts)] = by_channels.get(len(counts), 0) + counts.double()
        self._updates[name] = self._updates.get(name, 0) + spikes.numel()
        self._thresholds[name] = neuron.settings.v_threshold

    def counts(self) -> dict:
        """All counts so far, on the CPU, in a form that can be sent to other processes and given to `rates`."""
        spikes = {name: {c: x.cpu() for c, x in sums.items()} for name, sums in self._spikes.items()}
        return dict(spikes=spikes, updates=dict(self._updates), thresholds=dict(self._thresholds))

    def rates(self, counts: list[dict] | None = None) -> FiringRates:
        """Firing rates of the layers that were called; ``counts`` merges the `counts` of several counters."""
        counts = [self.counts()] if counts is None else counts
        layers = {}
        for name in dict.fromkeys(name for each in counts for name in each['spikes']):
            parts = [each for each in counts if name in each['spikes']]
            sizes = {c for each in parts for c in each['spikes'][name]}
            spikes = [sum(each['spikes'][name][c] for each in parts if c in each['spikes'][name]) for c in sizes]
            updates = sum(each['updates'][name] for each in parts)
            layers[name] = LayerFiring(
                rate=sum(x.sum().item() for x in spikes) / max(updates, 1),
                channels=sum(sizes),
                silent_channels=sum(int((x == 0).sum()) for x in spikes),
                updates=updates,
                v_threshold=parts[0]['thresholds'][name],
            )
        return FiringRates(layers, blank_norms=sum(_is_blank(norm) for norm in self._frozen))

    def reset(self) -> None:
        """Set all counts to 0."""
        self._spikes.clear()
        self._updates.clear()


def _is_blank(norm: nn.Module) -> bool:
    return norm.num_batches_tracked is not None and not norm.num_batches_tracked


def _channel_axis(x: Tensor, T: int, axis: int) -> int:
    """The dimension of the channels of ``x``: ``axis`` in ``[T*B, ...]``, and 2 in ``[T, B, C, H, W]``."""
    if x.dim() < 3:
        return x.dim() - 1
    if x.dim() == 5 and len(x) == T and axis == 1:
        return 2
    return axis % x.dim()
