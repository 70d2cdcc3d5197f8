"""Integer-valued LIF and its exact binary form."""

from torch import Tensor, nn

from mmsnn.layers.time import TimeAware, check_encoded, fold, unfold
from mmsnn.ops import NeuronSettings, lif
from mmsnn.registry import MODELS

from .base import Neuron


@MODELS.register_module()
class ILIF(Neuron):
    """I-LIF (Luo et al., "Integer-Valued Training and Spike-Driven Inference", ECCV 2024): trains with integers 0..D.

    ``s = round(clip(h / v_threshold, 0, D))`` with a soft, detached reset, as in the authors' code. Because of the
    rounding, a neuron fires above half the threshold, even with one level. The default tau corresponds to the decay of
    0.25 in that code. In training, and by default in inference, the neuron emits integers in T steps; `expand_levels`
    turns a trained network into one with the same outputs that runs T*D steps of two-valued spikes.

    Args:
        T, settings: as in `Neuron`; ``levels`` is D, the largest integer, and ``v_reset`` must be None.

    Raises:
        ValueError: ``v_reset`` is a number, or ``T`` is not a multiple of D after `expand_levels`.
    """

    defaults = NeuronSettings(
        levels=4,
        tau=4 / 3,
        v_reset=None,
        decay_input=False,
        detach_reset=True,
        surrogate='rectangle',
        rounded=True,
    )

    def __init__(self, T: int = 4, **settings):
        super().__init__(T, **settings)
        self.expanded = False

    def _fuses(self, norm: nn.Module) -> bool:
        # The input of a neuron in an expanded network is a mean over micro-steps.
        return not self.expanded and super()._fuses(norm)

    def potentials(self, *args, **kwargs) -> Tensor:
        """As `Neuron.potentials`; RuntimeError after `expand_levels`, because micro-steps have no potential."""
        if self.expanded:
            raise RuntimeError('after expand_levels an ILIF has no membrane potential of single micro-steps')
        return super().potentials(*args, **kwargs)

    def forward(self, x: Tensor, v_init: Tensor | None = None, return_v: bool = False, norm: nn.Module | None = None):
        """Integers 0..D; after `expand_levels`, values 0 and D in T = T'*D micro-steps."""
        if not self.expanded:
            return super().forward(x, v_init, return_v, norm)
        if self.owner is not None:
            check_encoded(self.owner, x, self.T)
        D = self.settings.levels
        if self.T % D:
            raise ValueError(f'T={self.T} micro-steps are not a multiple of levels={D}')
        steps = self.T // D
        micro = unfold(x, self.T).unflatten(0, (steps, D))
        out = lif(fold(micro.mean(1)), steps, self.settings, v_init=v_init, return_v=return_v)
        counts = out[0] if return_v else out
        spikes = fold(fold(to_binary(unfold(counts, steps), D) * D))
        return (spikes, out[1]) if return_v else spikes


def to_binary(counts: Tensor, levels: int) -> Tensor:
    """Split integers ``[T, ...]`` in 0..D into D binary micro-steps ``[T, D, ...]`` that add up to them."""
    order = counts.new_tensor(range(levels)).view(1, levels, *[1] * (counts.dim() - 1))
    return (counts.unsqueeze(1) > order).to(counts)


def expand_levels(model: nn.Module) -> nn.Module:
    """Turn a trained network of `ILIF` neurons into its spike-driven form, in place; returns ``model``.

    Every module then runs T*D micro-steps, and the neurons emit only 0 and D (the constant D can be merged into the
    following weights), so a convolution only adds. The outputs equal those of the integer network up to rounding,
    because convolutions, norms in eval mode, pooling and sums give the same for the mean over micro-steps as for the
    integers. Products of spikes (AND, IAND) do not, and are refused.

    Raises:
        ValueError: ``model`` has no ILIF, other neurons as well, or ILIF with different ``levels``; it multiplies
            spikes; or it is expanded already.
    """
    neurons = [m for m in model.modules() if isinstance(m, Neuron)]
    levels = {n.settings.levels for n in neurons}
    if not neurons or not all(isinstance(n, ILIF) for n in neurons) or len(levels) != 1:
        raise ValueError('expand_levels needs a model whose neurons are all ILIF, with equal levels')
    if any(n.expanded for n in neurons):
        raise ValueError('the model is expanded already')
    for module in model.modules():
        if getattr(module, 'connect', 'ADD') != 'ADD':
            raise ValueError(f'connect={module.connect!r} multiplies spikes and cannot be expanded')
    for neuron in neurons:
        neuron.expanded = True
    (factor,) = levels
    for module in model.modules():
        if isinstance(module, TimeAware):
            module.T = module.T * factor
    return model
