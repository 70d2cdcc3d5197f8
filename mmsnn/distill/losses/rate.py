"""A loss on the firing rate of neurons."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmsnn.layers.fan_out import COUNTED, LARGEST_INTEGER, accumulations, dense_macs
from mmsnn.neurons import Neuron
from mmsnn.neurons.recording import choose
from mmsnn.neurons.watched import SavedAside
from mmsnn.neurons.watching import Watcher
from mmsnn.registry import MODELS

from .base import DistillLoss


@MODELS.register_module()
class FiringRate(DistillLoss):
    """Holds the firing rate, or the number of synaptic operations, below a target; needs no teacher and no connector.

    ``log(max(r, target) / target)^2 + sum_l max(1 - r_l / (floor * target), 0)^2``

    Near the target the first part equals the ``(r / target - 1)^2`` of Sorbaro et al. (Frontiers in Neuroscience,
    2020). Far above the target, where that square would dominate every other term, the logarithm grows slowly; below
    the target it is 0. The second part is a lower bound for every layer l. Without it a network lowers its rate most
    easily by silencing its first layers; nothing then reaches the later layers, and gradients explode in the batch
    norms after silent maps.

    With ``rate``, r is the number of spikes per neuron and time step over all chosen neurons together, as in
    `mmsnn.analysis.firing_rates`; for ILIF it is the mean integer. With ``synops``, r is the number of synaptic
    operations of one image over all T steps: each spike times its fan-out, which is the number of outputs that it
    reaches in the following convolutions and linear layers. `mmsnn.analysis.count_energy` counts the same (as ``acs``),
    so the cost of a spike is exact also after sums of spikes (SEW) and pooling. Layers with analog inputs count
    nothing; the first input that is not all zero decides whether a layer has spikes or analog values.

    In a Distiller, with a teacher or without one::

        losses=dict(loss_rate=dict(type='FiringRate', rate=0.05, weight=1.0))

    ``student`` is optional and names neurons (for ``synops`` convolutions and linear layers), parts of the model that
    contain some, or patterns: ``'backbone.layer1'``, ``'backbone.*.neuron1'``. In your own training loop::

        loss = FiringRate(rate=0.05)
        with loss.watch(model) as seen:
            out = model(images)
        seen.images = len(images)  # only synops needs it
        total = F.cross_entropy(out, labels) + loss(seen.totals())

    The loss costs one sum over the spikes of each layer and stores no map. A neuron and its norm still run as one op,
    and convolutions still store their spikes packed.

    Args:
        rate: target of the firing rate, spikes per neuron and time step.
        synops: target of the synaptic operations per image. Exactly one of ``rate`` and ``synops`` must be given.
        layerwise: whether each layer has to reach the target by itself and the loss is the mean over layers. The
            target ``synops`` is divided among the layers in proportion to their sizes.
        floor: lower bound for every layer as a share of the target, from 0 (no bound) to 1.

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
        # Whether the inputs of a layer are spikes, by the layer's name, and of which layer; its first forward decides.
        self.spiking: dict[str, tuple[int, bool]] = {}

    def extra_repr(self) -> str:
        kind = 'synops' if self.of_synapses else 'rate'
        return f'{kind}={self.target:g}, layerwise={self.layerwise}, floor={self.floor}'

    def watch(self, model: nn.Module, *names: str) -> 'Activity':
        """Context that records the activity of the chosen neurons or synapses during a forward of ``model``.

        Raises:
            ValueError: a name matches nothing, or ``model`` has no neurons.
        """
        neurons = choose(model, () if self.of_synapses else names, inside=True)
        if not self.of_synapses:
            return Activity(neurons, self._spikes, per_image=False)
        return Activity(choose(model, names, COUNTED, 'convolution or linear layer', inside=True), self._operations)

    def _spikes(self, name: str, neuron: Neuron, _x: Tensor, spikes: Tensor) -> tuple[Tensor, int]:
        # Sums of 16-bit spikes are accumulated in float32, where they are exact enough.
        return spikes.sum(dtype=torch.promote_types(spikes.dtype, torch.float32)), spikes.numel()

    def _operations(self, name: str, layer: nn.Module, x: Tensor, output: Tensor) -> tuple[Tensor, int] | None:
        if self.spiking.get(name, (0, False))[0] != id(layer):
            with torch.no_grad():
                if not (x != 0).any():
                    return None
                integer = (x == x.round()).all() & (x.abs().max() <= LARGEST_INTEGER)
                self.spiking[name] = id(layer), bool(integer)
        return (accumulations(layer, x, output), dense_macs(layer, x, output)) if self.spiking[name][1] else None

    def forward(
        self, student: list[Tensor], teacher: Sequence[Tensor] = (), data_samples: list | None = None
    ) -> Tensor:
        """A scalar from what `Activity.totals` gives.

        Args:
            student: a tensor ``[2]`` per layer. For ``rate`` it holds the number of spikes and neurons x time steps x
                images; for ``synops`` the synaptic operations of one image and their number if all inputs fired.
        """
        amounts, sizes = torch.stack(list(student)).unbind(1)
        # Both kinds of target are amounts per place.
        target = self.target / sizes.sum() if self.of_synapses else self.target
        shares = amounts / sizes / target
        measured = shares if self.layerwise else amounts.sum() / sizes.sum() / target
        above = measured.clamp(min=1).log().square().mean()
        return above + (1 - shares / self.floor).clamp(min=0).square().sum() if self.floor else above


class Activity(Watcher):
    """Context that sums, with gradients, a measured amount over all calls of some modules.

    Args:
        modules: the modules by name.
        measure: ``measure(name, module, x, output)`` gives an amount and the number of places where it arises (neurons
            x time steps x images, or dense operations), or None to count nothing.
        per_image: whether both numbers are divided by ``images``.

    Attributes:
        images: number of images in the forward, which only ``synops`` needs; set it before `totals`.
    """

    def __init__(self, modules: dict[str, nn.Module], measure, per_image: bool = True):
        # Compiled parts stay compiled, since running them eagerly would slow the training down unnoticed; `totals`
        # raises if they hide all of the modules.
        super().__init__(modules, eager=False)
        self.measure, self.per_image = measure, per_image
        self.images: int | None = None
        self.amounts: dict[str, tuple[Tensor, int]] = {}

    def __enter__(self) -> 'Activity':
        self.amounts.clear()
        return super().__enter__()

    def _see(self, name: str, module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
        x = args[0] if args else next(iter(kwargs.values()))
        # With activation checkpointing nothing may be saved for the backward pass that is not saved again.
        with SavedAside():
            amount = self.measure(name, module, x, output)
        if amount is not None:
            before = self.amounts.get(name, (0, 0))
            self.amounts[name] = before[0] + amount[0], before[1] + amount[1]

    def totals(self) -> list[Tensor]:
        """A tensor ``[2]`` for each layer that was called, as `FiringRate.forward` takes it.

        Raises:
            ValueError: no layer was called, none of the recorded amounts carries a gradient, or ``images`` is needed
                and not set.
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
        if self.per_image and not self.images:
            raise ValueError(
                'FiringRate: synops counts the operations of an image: say how many images there were, by '
                'seen.images = len(images), before seen.totals()'
            )
        images = self.images if self.per_image else 1
        return [torch.stack([x, x.new_tensor(float(of))]) / images for x, of in self.amounts.values()]
