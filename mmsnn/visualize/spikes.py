"""Drawing spikes, membrane potentials and firing rates into matplotlib axes.

Spikes and potentials have the form ``[T, B, ...]``, as `mmsnn.record` returns them; one sample of the batch is drawn.
"""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor
from torch.nn import functional as F

# Colours of negative and positive events.
OFF, ON = (0.84, 0.19, 0.15), (0.10, 0.44, 0.69)


def _of_sample(values: Tensor, sample: int) -> Tensor:
    """One sample ``[T, ...]`` of ``[T, B, ...]``; ValueError if it does not exist or ``values`` has another form."""
    if values.dim() < 3:
        raise ValueError(f'expected spikes or potentials [T, B, ...], got {tuple(values.shape)}')
    if not -values.shape[1] <= sample < values.shape[1]:
        raise ValueError(f'sample={sample}: there are {values.shape[1]} samples in {tuple(values.shape)}')
    return values[:, sample].detach().float().cpu()


def choose(spikes: Tensor, count: int, sample: int = 0) -> Tensor:
    """Indices of up to ``count`` neurons of a layer, evenly spaced among those that fire, or among all if none does."""
    flat = _of_sample(spikes, sample).flatten(1)
    firing = flat.any(0).nonzero().flatten()
    among = firing if len(firing) else torch.arange(flat.shape[1])
    return among[torch.linspace(0, len(among) - 1, min(count, len(among))).round().long()]


def raster(axes: Axes, spikes: Tensor, *, sample: int = 0, neurons: Tensor | None = None, count: int = 60) -> Axes:
    """Draw a spike raster, with one row per neuron and one mark per spike.

    Args:
        axes: the axes to draw into.
        spikes: ``[T, B, ...]``.
        sample: index of the sample in the batch.
        neurons: indices of neurons in the flattened layer; None calls `choose`.
        count: number of neurons that `choose` selects.
    """
    neurons = choose(spikes, count, sample) if neurons is None else neurons
    flat = _of_sample(spikes, sample).flatten(1)[:, neurons]
    # Time steps are numbered from 1 to T.
    rows = [(1 + flat[:, k].nonzero().flatten()).tolist() for k in range(flat.shape[1])]
    axes.eventplot(rows, colors='black', linelengths=0.8, linewidths=1.5)
    axes.set(xlim=(0.5, len(flat) + 0.5), xlabel='time step', ylabel=f'{len(rows)} of {spikes[0, 0].numel()} neurons')
    axes.set_xticks(_ticks(len(flat)))
    return axes


def membrane(
    axes: Axes,
    potentials: Tensor,
    v_threshold: float,
    *,
    spikes: Tensor | None = None,
    sample: int = 0,
    neurons: Tensor | None = None,
    count: int = 4,
) -> Axes:
    """Draw membrane potentials before firing over time, with the threshold and a mark at each spike.

    Args:
        axes: the axes to draw into.
        potentials: ``[T, B, ...]``, as `mmsnn.record` returns for ``what='v'``.
        v_threshold: threshold of the neurons.
        spikes: ``[T, B, ...]``, for the marks; None draws no marks.
        sample, neurons, count: as in `raster`; with ``spikes``, neurons that fire are chosen.
    """
    if neurons is None:
        neurons = choose(potentials if spikes is None else spikes, count, sample)
    v = _of_sample(potentials, sample).flatten(1)[:, neurons]
    steps = np.arange(1, len(v) + 1)
    fired = None if spikes is None else _of_sample(spikes, sample).flatten(1)[:, neurons] > 0
    for k, neuron in enumerate(neurons.tolist()):
        (line,) = axes.plot(steps, v[:, k], marker='.', linewidth=1.2, label=f'neuron {neuron}')
        if fired is not None and fired[:, k].any():
            on = fired[:, k].numpy()
            axes.plot(steps[on], v[on, k], linestyle='', marker='*', markersize=10, color=line.get_color())
    axes.axhline(v_threshold, color='grey', linestyle='--', linewidth=1, label='threshold')
    axes.set(xlabel='time step', ylabel='membrane potential')
    axes.set_xticks(_ticks(len(v)))
    axes.legend(fontsize=7, frameon=False)
    return axes


def rate_map(
    axes: Axes, spikes: Tensor, image: np.ndarray | None = None, *, sample: int = 0, alpha: float = 0.6
) -> Axes:
    """Draw a map of the firing rate of a layer (spikes per neuron and time step, mean over channels) onto an image.

    Args:
        axes: the axes to draw into.
        spikes: ``[T, B, C, H, W]``.
        image: ``[h, w, 3]`` in RGB, to whose size the map is interpolated; None draws the map alone.
        sample: index of the sample in the batch.
        alpha: opacity of the map.

    Raises:
        ValueError: the layer has no height and width.
    """
    if spikes.dim() != 5:
        raise ValueError(f'a map needs spikes [T, B, C, H, W], got {tuple(spikes.shape)}')
    rates = _of_sample(spikes, sample).mean((0, 1))
    if image is not None:
        axes.imshow(image)
        rates = F.interpolate(rates[None, None], image.shape[:2], mode='bilinear', align_corners=False)[0, 0]
    # A layer that does not fire has a scale too.
    top = float(rates.max()) or 1.0
    drawn = axes.imshow(rates.numpy(), cmap='inferno', alpha=alpha if image is not None else 1.0, vmin=0, vmax=top)
    bar = axes.figure.colorbar(drawn, ax=axes, shrink=0.7, label='spikes per neuron and step')
    bar.ax.tick_params(labelsize=7)
    bar.ax.yaxis.label.set_size(7)
    axes.axis('off')
    return axes


def rate_over_time(axes: Axes, spikes: Mapping[str, Tensor]) -> Axes:
    """Draw the firing rate of each layer at every time step, averaged over the batch.

    Args:
        axes: the axes to draw into.
        spikes: by the name of the layer, ``[T, B, ...]``.
    """
    longest = 1
    for name, values in spikes.items():
        rates = values.detach().float().flatten(1).mean(1).cpu()
        longest = max(longest, len(rates))
        axes.plot(np.arange(1, len(rates) + 1), rates, marker='.', label=name)
    axes.set(xlabel='time step', ylabel='spikes per neuron', ylim=(0, None))
    axes.set_xticks(_ticks(longest))
    if len(spikes) <= 12:
        axes.legend(fontsize=6, frameon=False)
    return axes


def event_frames(axes: list[Axes], frames: Tensor) -> list[Axes]:
    """Draw event frames, one into each axes: positive events are blue, negative events red, on white.

    Args:
        axes: a list of axes; as many frames are drawn, evenly spaced in time.
        frames: ``[T, 2, H, W]``, counts of negative and of positive events.

    Raises:
        ValueError: ``frames`` has another form.
    """
    if frames.dim() != 4 or frames.shape[1] != 2:
        raise ValueError(f'expected event frames [T, 2, H, W], got {tuple(frames.shape)}')
    frames = frames.detach().float().cpu()
    strength = (frames / frames.flatten().quantile(0.995).clamp(min=1) if frames.numel() < 2**24 else frames).clamp(
        0, 1
    )
    shown = torch.linspace(0, len(frames) - 1, len(axes)).round().long().tolist()
    for each, t in zip(axes, shown):
        off, on = strength[t][:, None].numpy()
        picture = 1 - off.transpose(1, 2, 0) * (1 - np.array(OFF)) - on.transpose(1, 2, 0) * (1 - np.array(ON))
        each.imshow(picture.clip(0, 1))
        each.set_title(f'step {t + 1}', fontsize=8)
        each.axis('off')
    return axes


def _ticks(T: int) -> list[int]:
    return sorted({*range(1, T + 1, max(1, T // 8)), T})
