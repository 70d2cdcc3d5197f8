"""A loss on how much neurons fire."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmsnn.layers.fan_out import COUNTED, LARGEST_INTEGER, accumulations, dense_macs
from mmsnn.neurons import Neuron
from mmsnn.neurons.recording import choose
from mmsnn.neurons.watching import Watcher
from mmsnn.registry import MODELS

from .base import DistillLoss


@MODELS.register_module()
class FiringRate(DistillLoss):
    """Holds the firing rate, or the number of synaptic operations, below a target; needs no teacher and no connector.

    ``log(max(r, target) / target)^2 + sum_l max(1 - r_l / (floor * target), 0)^2``

    Near the target the first part is the ``(r / target - 1)^2`` of Sorbaro et al. (Frontiers in Neuroscience, 2020);
    far above it, where that drowns every other term, it grows slowly; below, it is 0. The second part is a lower bound
    for every layer l: a network saves most by silencing its first layers, and is then dead, with gradients that explode
    in the batch norms behind silent maps.

    With ``rate``, r is the number of spikes per neuron and time step over all chosen neurons together, as
    `mmsnn.analysis.firing_rates` has it; of ILIF the mean integer. With ``synops``, r is the number of synaptic
    operations of one image over all T steps: each spike times its fan-out, the outputs that it reaches in the
    convolutions and linear layers behind it, as `mmsnn.analysis.count_energy` counts them (its ``acs``). So a spike
    costs what it really costs, also behind sums of spikes (SEW) and pooling. Layers that are given analog values count
    nothing; which these are is seen at the first values that are not all zero.

    In a Distiller, with a teacher or without one::

        losses=dict(loss_rate=dict(type='FiringRate', rate=0.05, weight=1.0))

    ``student`` is optional and names neurons (for ``synops`` convolutions and linear layers), parts of the model that
    hold some, or patterns: ``'backbone.layer1'``, ``'backbone.*.neuron1'``. In a training loop of one's own::

        loss = FiringRate(rate=0.05)
        with loss.watch(model) as seen:
            out = model(images)
        total = F.cross_entropy(out, labels) + loss(seen.totals())

    It costs one sum over each layer's spikes and keeps no map. A neuron and its norm stay one op, and convolutions keep
    their spikes packed.

    Args:
        rate: target of the firing rate, spikes per neuron and time step.
        synops: target of the synaptic operations per image. Exactly one of the two is given.
        layerwise: every layer has the target for itself (of ``synops`` a share by its size), and the loss is the mean
            over layers.
        floor: share of the target below which no layer shall fall, 0 (no bound) to 1.

    Raises:
        ValueError: not exactly one target, one that is not positive, or a floor out of range.
    """

    needs_teacher = False
    watches = True

    def __init__(
        self, rate: float | None = None, synops: float | None = None, layerwise: bool = False, floor: float = 0.25
    ):
        super().__init__()
        if (rate is None) == (synops is None):
            raise ValueError('FiringRate: set either rate (spikes per neuron and time step) or synops (per image)')
        if not 0 <= floor <= 1:
            raise ValueError(f'FiringRate: floor is a share of the target between 0 and 1, got {floor!r}')
        target = synops if rate is None else rate
        if target is None or isinstance(target, (bool, str)) or not 0 < target < float('inf'):
            raise ValueError(f'FiringRate: {"synops" if rate is None else "rate"} must be positive, got {target!r}')
        self.target, self.layerwise, self.floor = float(target), layerwise, floor
        self.of_synapses = rate is None
        # by name, whether a layer is given spikes; found at the first forward
        self.spiking: dict[str, bool] = {}

    def extra_repr(self) -> str:
        kind = 'synops' if self.of_synapses else 'rate'
        return f'{kind}={self.target:g}, layerwise={self.layerwise}, floor={self.floor}'

    def watch(self, model: nn.Module, *names: str) -> 'Activity':
        """Context around a forward of ``model`` in which the chosen neurons or synapses are watched.

        Raises:
            ValueError: a name fits nothing, or there are no neurons.
        """
        neurons = choose(model, () if self.of_synapses else names, inside=True)
        if not self.of_synapses:
            return Activity(neurons, self._spikes, per_image=False)
        return Activity(choose(model, names, COUNTED, 'convolution or linear layer', inside=True), self._operations)

    def _spikes(self, name: str, neuron: Neuron, _x: Tensor, spikes: Tensor) -> tuple[Tensor, int]:
        # no less than float32, whose sums of whole numbers stay exact enough
        return spikes.sum(dtype=torch.promote_types(spikes.dtype, torch.float32)), spikes.numel()

    def _operations(self, name: str, layer: nn.Module, x: Tensor, output: Tensor) -> tuple[Tensor, int] | None:
        if name not in self.spiking:
            with torch.no_grad():
                if not (x != 0).any():
                    return None
                integer = (x == x.round()).all() & (x.abs().max() <= LARGEST_INTEGER)
                self.spiking[name] = bool(integer)
        return (accumulations(layer, x, output), dense_macs(layer, x, output)) if self.spiking[name] else None

    def forward(
        self, student: list[Tensor], teacher: Sequence[Tensor] = (), data_samples: list | None = None
    ) -> Tensor:
        """A scalar from what `Activity.totals` gives.

        Args:
            student: for each layer ``[2]``: its spikes, and neurons x time steps x images; for ``synops`` the synaptic
                operations of one image, and as many as there would be if everything fired.
        """
        amounts, sizes = torch.stack(list(student)).unbind(1)
        # both kinds of target as a share of what is possible
        target = self.target / sizes.sum() if self.of_synapses else self.target
        shares = amounts / sizes / target
        measured = shares if self.layerwise else amounts.sum() / sizes.sum() / target
        above = measured.clamp(min=1).log().square().mean()
        return above + (1 - shares / self.floor).clamp(min=0).square().sum() if self.floor else above


class Activity(Watcher):
    """Context that adds up, with gradients, what the calls of some modules amount to.

    Args:
        modules: by name.
        measure: ``measure(name, module, x, output)`` gives an amount and of how many it is, or None.
        per_image: whether both are divided by ``images``.

    Attributes:
        images: number of images in the forward, which only ``synops`` needs; set it before `totals`.
    """

    def __init__(self, modules: dict[str, nn.Module], measure, per_image: bool = True):
        # training must not lose its compiled parts in silence; `totals` says where they hide everything
        super().__init__(modules, eager=False)
        self.measure, self.per_image, self.images = measure, per_image, 1
        self.amounts: dict[str, tuple[Tensor, int]] = {}

    def __enter__(self) -> 'Activity':
        self.amounts.clear()
        return super().__enter__()

    def _see(self, name: str, module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
        x = args[0] if args else next(iter(kwargs.values()))
        amount = self.measure(name, module, x, output)
        if amount is not None:
            before = self.amounts.get(name, (0, 0))
            self.amounts[name] = before[0] + amount[0], before[1] + amount[1]

    def totals(self) -> list[Tensor]:
        """For each layer that was called ``[2]``, what `FiringRate.forward` takes.

        Raises:
            ValueError: nothing was called, or nothing of what was seen could be trained.
        """
        if not self.amounts:
            raise ValueError(
                'FiringRate: none of what it watches was called, or given spikes, in this forward: '
                f'{", ".join(list(self.modules)[:3])} ... (compiled parts of a network cannot be watched)'
            )
        if torch.is_grad_enabled() and not any(x.requires_grad for x, _ in self.amounts.values()):
            raise ValueError(
                'FiringRate: what it watches carries no gradient, so it would train nothing: the layers are frozen '
                '(frozen_stages), or run under reentrant activation checkpointing'
            )
        images = self.images if self.per_image else 1
        return [torch.stack([x, x.new_tensor(float(of))]) / images for x, of in self.amounts.values()]
