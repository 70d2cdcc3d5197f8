"""The pooling between Meta-SpikeFormer and its classifier."""

from torch import Tensor, nn

from mmsnn.layers import Readout
from mmsnn.models.backbones.transformer import NEURON
from mmsnn.neurons import build_neuron, neuron_config
from mmsnn.registry import MODELS


@MODELS.register_module()
class SpikingPooling(nn.Module):
    """Neck between Meta-SpikeFormer and its classifier: mean over positions, neuron, mean over time.

    Args:
        T: time steps of the backbone, whose ``readout`` must be ``none``.
        neuron: config of the neuron, with the backbone's default.
    """

    def __init__(self, T: int = 4, neuron: dict | None = None):
        super().__init__()
        self.lif = build_neuron(neuron_config(neuron, NEURON), T)
        self.readout = Readout(T)

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Vectors ``[B, C]``, one per level, from maps ``[T*B, C, H, W]``."""
        return tuple(self.readout(self.lif(x.flatten(2).mean(2))) for x in inputs)
