"""Threshold balancing: gains, computed from data, that make silent neurons fire."""

import logging
import math

import torch
from mmengine import dist
from mmengine.logging import print_log
from mmengine.model.utils import _BatchNormXd
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmsnn.neurons import Neuron

RATE = 0.1
# The largest gain, the number of bisection steps that find a gain, and the number of neurons that they look at.
LARGEST, HALVINGS, SAMPLE = 2.0**24, 12, 2**16


def balance_thresholds(model: nn.Module, images: Tensor, rate: float = RATE) -> dict[str, float]:
    """Give every layer of neurons an input gain with which it fires at ``rate``, from first to last layer.

    A layer too few of whose inputs are positive for that settles for half of the largest rate that it can reach.

    A neuron with threshold ``v`` and gain ``g`` acts like one with threshold ``v / g``. This is the threshold balancing
    of converted networks (Diehl et al., IJCNN 2015), applied to networks before training. Random weights often give
    currents far below the threshold, where hardly any gradient flows: in networks without norms (VGG), or in those made
    for GELU and SiLU, whose layers shrink their inputs.

    Each gain is a buffer ``gain`` of its neuron, so checkpoints hold it; a layer that fires enough has the gain 1. A
    neuron module that is used at several places gets the gain of its first call. Norm and neuron no longer run as one
    op.

    Args:
        model: any module with neurons that is called as ``model(images)``, in training or eval mode. Batch norms in
            training mode use the statistics of the batch and do not update their running statistics.
        images: a batch as in training, normalised.
        rate: spikes per neuron and time step; for ILIF a share of its largest integer.

    Returns:
        The gains by the name of the neuron. NaN marks a layer that no gain can make fire, because none of its inputs is
        positive.

    Raises:
        ValueError: ``model`` has no neuron, or ``rate`` is not between 0 and 1.
    """
    neurons = {name: m for name, m in model.named_modules() if isinstance(m, Neuron)}
    if not neurons:
        raise ValueError(f'{type(model).__name__} has no spiking neuron to balance')
    norms = [m for m in model.modules() if isinstance(m, (_BatchNorm, _BatchNormXd))]
    momenta = [norm.momentum for norm in norms]
    counts = [None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms]
    with torch.no_grad():
        start(neurons.values(), rate)
        try:
            for norm in norms:
                norm.momentum = 0.0
            model(images)
        finally:
            gains = finish(neurons)
            for norm, momentum, count in zip(norms, momenta, counts):
                norm.momentum = momentum
                if count is not None:
                    norm.num_batches_tracked.copy_(count)
    return gains


def add_gain(neuron: Neuron) -> None:
    """Add a gain of 1 to a neuron."""
    if 'gain' not in neuron._buffers:
        like = next(neuron.parameters(), torch.zeros(()))
        neuron.register_buffer('gain', torch.ones((), device=like.device))
        neuron.register_forward_pre_hook(_amplify)
        neuron.fuse_norm = False
    neuron.wanted_rate = None


def start(neurons, rate: float) -> None:
    """Make each neuron compute its gain in its next call."""
    if not 0 < rate < 1:
        raise ValueError(f'balance: the firing rate must lie between 0 and 1, got {rate}')
    for neuron in neurons:
        add_gain(neuron)
        neuron.wanted_rate = rate


def finish(neurons: dict[str, Neuron]) -> dict[str, float]:
    """Log and return the gains by name, and make neurons that were not called keep theirs."""
    gains = {}
    for name, neuron in neurons.items():
        neuron.wanted_rate = None
        gains[name] = float(neuron.gain)
        if gains[name] == 0:
            gains[name] = math.nan
            neuron.gain.fill_(1.0)
    woken = [gain for gain in gains.values() if gain > 1]
    dead = [name for name, gain in gains.items() if math.isnan(gain)]
    said = f'balance: {len(woken)} of {len(gains)} layers of neurons have a gain'
    said += f', {min(woken):.3g} to {max(woken):.3g}' if woken else ''
    if dead:
        said += f'; no gain makes {", ".join(dead)} fire, because none of their inputs is positive'
    print_log(said, logger='current', level=logging.WARNING if dead else logging.INFO)
    return gains


def _amplify(neuron: Neuron, inputs: tuple) -> tuple:
    x, *rest = inputs
    if neuron.wanted_rate is not None:
        with torch.no_grad():
            # A gain of 0 marks a layer without one until `finish`.
            neuron.gain.fill_(_find_gain(neuron, x, neuron.wanted_rate) or 0.0)
        if dist.is_distributed():
            dist.broadcast(neuron.gain, 0)
        neuron.wanted_rate = None
        if neuron.gain == 0:
            return inputs
    return x * neuron.gain.to(x.dtype), *rest


def _find_gain(neuron: Neuron, x: Tensor, rate: float) -> float | None:
    """The smallest gain of at least 1 with which neurons with input ``x`` fire at ``rate``; None if there is none."""
    # The first dimension is kept, because time is folded into it.
    x = x.detach().flatten(1)
    x = x[:, :: max(1, x.numel() // SAMPLE)]

    def fires(gain: float) -> float:
        return float(neuron.forward(x * gain).mean()) / neuron.settings.levels

    if fires(1.0) >= rate:
        return 1.0
    # If too few inputs are positive to reach the rate, half of the rate that is possible is taken.
    rate = min(rate, fires(LARGEST) / 2)
    if rate == 0:
        return None
    low, high = 0.0, math.log2(LARGEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if fires(2**middle) >= rate else (middle, high)
    return 2**high
