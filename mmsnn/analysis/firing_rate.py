"""How often the neurons of a model fire."""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import nn

from mmsnn.neurons import Neuron

from .forward import Batch, as_batches, run, watching


def spikes_in(neuron: Neuron, output) -> float:
    """Number of spikes in what ``neuron`` returned.

    An integer counts as that many spikes; an expanded ILIF emits 0 and D, each D one spike.
    """
    spikes = output[0] if isinstance(output, tuple) else output
    if getattr(neuron, 'expanded', False):
        spikes = spikes != 0
    return spikes.sum(dtype=torch.float64).item()


def firing_rates(model: nn.Module, inputs: Batch | Iterable[Batch]) -> dict[str, float]:
    """Mean number of spikes per neuron and time step, for each neuron layer in the order of first use.

    For ILIF it is the mean integer, between 0 and D. A module used at several places is averaged over all of them.
    Hooks sit in the model only during the call.

    Args:
        model: any model with `Neuron` modules; run in eval mode, its modes are restored.
        inputs: images ``[B, C, H, W]``, event frames ``[B, T, C, H, W]``, a batch of a data loader (which goes through
            ``model.test_step``), or an iterable of either.

    Raises:
        TypeError: an input is none of these.
        ValueError: no neuron was called.
    """
    spikes, sites = Counter(), Counter()

    def record(name, neuron, x, output):
        spikes[name] += spikes_in(neuron, output)
        sites[name] += x.numel()

    with watching(model, (Neuron,), record):
        for batch in as_batches(inputs):
            run(model, batch)
    if not sites:
        raise ValueError(f'no spiking neuron of {type(model).__name__} was called: firing rates need an SNN and inputs')
    return {name: spikes[name] / sites[name] for name in sites}
