"""How often the neurons of a model fire."""

from collections.abc import Iterable

from torch import nn

from mmsnn.neurons import FiringRates, SpikeCounter

from .forward import Batch, as_batches, run, watching


def firing_rates(model: nn.Module, inputs: Batch | Iterable[Batch]) -> FiringRates:
    """Mean number of spikes per neuron and time step, for each neuron layer in the order of first use.

    For ILIF it is the mean integer, between 0 and D. A module used at several places is averaged over all of them.
    Hooks sit in the model only during the call. The result is a mapping from names to rates, which also knows the
    layers that are silent (``.silent``) and how many channels of each never fired (``.layers[name]``)::

        rich.print(firing_rates(model, images).table())

    Args:
        model: any model with `Neuron` modules; run in eval mode, its modes are restored.
        inputs: images ``[B, C, H, W]``, event frames ``[B, T, C, H, W]``, a batch of a data loader (which goes through
            ``model.test_step``), or an iterable of either.

    Raises:
        TypeError: an input is none of these.
        ValueError: no neuron was called.
    """
    with watching(model, (), None), SpikeCounter(model) as counter:
        for batch in as_batches(inputs):
            run(model, batch)
    rates = counter.rates()
    if not rates:
        raise ValueError(f'no spiking neuron of {type(model).__name__} was called: firing rates need an SNN and inputs')
    return rates
