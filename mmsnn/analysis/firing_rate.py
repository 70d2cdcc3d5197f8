"""Firing rates of a model's neurons."""

from collections.abc import Iterable

from torch import nn

from mmsnn.neurons import FiringRates, SpikeCounter

from .forward import Batch, as_batches, run, watching


def firing_rates(model: nn.Module, inputs: Batch | Iterable[Batch]) -> FiringRates:
    """Mean number of spikes per neuron and time step, for each neuron layer in the order of first calls.

    For ILIF it is the mean integer, between 0 and D. A module that is used at several places is averaged over these.
    The model has hooks only during the call. The result is a mapping from names to rates; it also lists the layers that
    are silent (``.silent``) and counts the channels of each layer that never fired (``.layers[name]``)::

        rich.print(firing_rates(model, images).table())

    Args:
        model: any model with `Neuron` modules; it runs in eval mode, and its modes are restored.
        inputs: images ``[B, C, H, W]``, event frames ``[B, T, C, H, W]``, a batch of a data loader (which goes through
            ``model.test_step``), or an iterable of either.

    Raises:
        TypeError: an input has another form.
        ValueError: no neuron was called.
    """
    with watching(model, (), None), SpikeCounter(model) as counter:
        for batch in as_batches(inputs):
            run(model, batch)
    rates = counter.rates()
    if not rates:
        raise ValueError(f'no spiking neuron of {type(model).__name__} was called: firing rates need an SNN and inputs')
    return rates
