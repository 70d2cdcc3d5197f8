"""Threshold balancing: silent neurons are woken by gains that are found from data."""

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
# gains are sought up to here, by halving so often, on so many neurons
LARGEST, HALVINGS, SAMPLE = 2.0**24, 12, 2**16


def balance_thresholds(model: nn.Module, images: Tensor, rate: float = RATE) -> dict[str, float]:
    """Let every layer of neurons fire at ``rate`` or more, by a gain on its input, from the first layer to the last.

    A neuron with threshold ``v`` and gain ``g`` is one with threshold ``v / g``: this is the threshold balancing of
    converted networks (Diehl et al., IJCNN 2015), for networks that are to be trained. Their random weights often give
    currents far below the threshold, where hardly a gradient flows: networks without norms (VGG), or made for GELU and
    SiLU, whose layers shrink what they get.

    Each gain is a buffer ``gain`` of its neuron, and so in the checkpoint; a layer that fires enough keeps 1. A neuron
    module that serves at several places gets that of the first. Norm and neuron no longer run as one op.

    Args:
        model: any module with neurons, called as ``model(images)``; as it stands, in training or evaluation. Batch
            norms in training take the batch's statistics and keep their own.
        images: a batch as the model sees it in training, normalised.
        rate: spikes per neuron and time step; of ILIF a share of its largest integer.

    Returns:
        The gains by name of the neuron. NaN marks a layer that no gain wakes, because its input is nowhere positive.

    Raises:
        ValueError: no neuron in ``model``, or ``rate`` outside 0 to 1.
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
    """Give a neuron its gain, 1 as yet."""
    if 'gain' not in neuron._buffers:
        like = next(neuron.parameters(), torch.zeros(()))
        neuron.register_buffer('gain', torch.ones((), device=like.device))
        neuron.register_forward_pre_hook(_amplify)
        neuron.fuse_norm = False
    neuron.wanted_rate = None


def start(neurons, rate: float) -> None:
    """Let each neuron find its gain in its next call."""
    if not 0 < rate < 1:
        raise ValueError(f'balance: the firing rate must lie between 0 and 1, got {rate}')
    for neuron in neurons:
        add_gain(neuron)
        neuron.wanted_rate = rate


def finish(neurons: dict[str, Neuron]) -> dict[str, float]:
    """The gains by name, and a line in the log."""
    gains = {}
    for name, neuron in neurons.items():
        # those that were not called wait no longer
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
        said += f'; no gain wakes {", ".join(dead)}, whose input is nowhere positive'
    print_log(said, logger='current', level=logging.WARNING if dead else logging.INFO)
    return gains


def _amplify(neuron: Neuron, inputs: tuple) -> tuple:
    x, *rest = inputs
    if neuron.wanted_rate is not None:
        with torch.no_grad():
            # 0 stands for none until `finish`
            neuron.gain.fill_(_find_gain(neuron, x, neuron.wanted_rate) or 0.0)
        if dist.is_distributed():
            dist.broadcast(neuron.gain, 0)
        neuron.wanted_rate = None
        if neuron.gain == 0:
            return inputs
    return x * neuron.gain.to(x.dtype), *rest


def _find_gain(neuron: Neuron, x: Tensor, rate: float) -> float | None:
    """The smallest gain from 1 on with which neurons of input ``x`` fire at ``rate``; None where there is none."""
    # the first dimension stays, in which time lies
    x = x.detach().flatten(1)
    x = x[:, :: max(1, x.numel() // SAMPLE)]

    def fires(gain: float) -> float:
        return float(neuron.forward(x * gain).mean()) / neuron.settings.levels

    if fires(1.0) >= rate:
        return 1.0
    # where the input is positive in too few places, half of what there can be
    rate = min(rate, fires(LARGEST) / 2)
    if rate == 0:
        return None
    low, high = 0.0, math.log2(LARGEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if fires(2**middle) >= rate else (middle, high)
    return 2**high
