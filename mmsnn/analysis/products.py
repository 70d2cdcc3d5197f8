"""Products of activations, as in attention: who multiplies whom, and how many accumulations it takes."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# where the two factors stand among the arguments
FACTORS = {
    aten.mm.default: (0, 1),
    aten.bmm.default: (0, 1),
    aten.addmm.default: (1, 2),
    aten.baddbmm.default: (1, 2),
}


@dataclass
class Products(TorchDispatchMode):
    """Context that counts the matrix products in which no factor is a weight.

    As papers on spiking transformers count them (Spikformer, ICLR 2023: rate times dense operations): where a factor is
    two-valued, an accumulation for each of its spikes and each number that the spike selects in the other factor, of
    two such factors by the sparser one. All others are dense multiply-accumulates.

    Args:
        model: whose weights are left out.

    Attributes:
        acs: accumulations of products with spikes.
        spiking_macs: dense multiply-accumulates of these.
        macs: dense multiply-accumulates of the others.
        spikes, inputs: non-zero and all elements of the spiking factors.
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
        # each element of a factor meets as many of the other's as that has columns, or rows
        found = [
            (spikes * reach, spikes, factor.numel())
            for factor, reach in ((left, right.shape[-1]), (right, left.shape[-2]))
            if (spikes := _spikes(factor)) is not None
        ]
        if not found:
            self.macs += dense
            return
        acs, spikes, inputs = min(found)
        self.acs += acs
        self.spiking_macs += dense
        self.spikes += spikes
        self.inputs += inputs


def _spikes(x: Tensor) -> int | None:
    """Number of spikes where ``x`` holds 0 and one other value, else None."""
    on = x != 0
    count = int(on.sum())
    return None if count and not bool((x[on] == x[on][0]).all()) else count
