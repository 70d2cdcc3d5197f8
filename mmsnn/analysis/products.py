"""Counting matrix products of activations, as in attention, and their accumulations."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# Positions of the two factors among the arguments.
FACTORS = {
    aten.mm.default: (0, 1),
    aten.bmm.default: (0, 1),
    aten.addmm.default: (1, 2),
    aten.baddbmm.default: (1, 2),
}


@dataclass
class Products(TorchDispatchMode):
    """Context that counts the matrix products in which no factor is a weight.

    They are counted as in papers on spiking transformers (Spikformer, ICLR 2023: firing rate times dense operations).
    If a factor has two values, each of its spikes costs one accumulation for each number that it selects in the other
    factor; if both have two values, the sparser one counts. All other products are dense multiply-accumulates.

    Args:
        model: the model whose weights are left out.

    Attributes:
        acs: accumulations of products with spikes.
        spiking_macs: dense multiply-accumulates of products with spikes.
        macs: dense multiply-accumulates of the other products.
        spikes, inputs: numbers of non-zero and of all elements in the spiking factors.
    """

    model: nn.Module
    acs: float = 0
    spiking_macs: int = 0
    macs: int = 0
    spikes: int = 0
    inputs: int = 0

    def __post_init__(self):
        super().__init__()
        self.weights = {p.untyped_storage().data_ptr() for p in self.model.parameters()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in FACTORS:
            left, right = (args[i] for i in FACTORS[func])
            if not any(x.untyped_storage().data_ptr() in self.weights for x in (left, right)):
                self._add(left, right)
        return out

    def _add(self, left: Tensor, right: Tensor) -> None:
        dense = left.numel() * right.shape[-1]
        # An element of the left factor is multiplied with a row of the right one; one of the right with a column.
        spiking = [
            (spikes * reach, spikes, factor.numel())
            for factor, reach in ((left, right.shape[-1]), (right, left.shape[-2]))
            if (spikes := _spikes(factor)) is not None
        ]
        if not spiking:
            self.macs += dense
            return
        acs, spikes, inputs = min(spiking)
        self.acs += acs
        self.spiking_macs += dense
        self.spikes += spikes
        self.inputs += inputs


def _spikes(x: Tensor) -> int | None:
    """Number of spikes if ``x`` holds 0 and at most one other value; otherwise None."""
    on = x != 0
    count = int(on.sum())
    return None if count and not bool((x[on] == x[on][0]).all()) else count
