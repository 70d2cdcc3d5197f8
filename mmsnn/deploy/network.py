"""A task model as what is exported: one tensor in, the tensors of ``mode='tensor'`` out."""

import copy
import inspect
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path

from mmsnn.layers import DirectEncoder, PoissonEncoder, evaluating
from mmsnn.neurons import Neuron


class Network(nn.Module):
    """A copy of a task model (or of any network) in evaluation, which gives a flat tuple of tensors.

    Its outputs are those of ``model(inputs, mode='tensor')``, in that order: of mmdet's single-stage detectors the
    class scores of every level, then the box deltas; of mmseg's segmentors the logits ``[B, K, h, w]``; of mmpretrain's
    classifiers ``[B, K]``. Inputs are normalised images ``[B, C, H, W]``, as the data preprocessor gives them, or
    event frames ``[B, T, C, H, W]``.

    Args:
        model: left as it is.

    Attributes:
        model: the copy, in float32 on the CPU, whose neurons and norms run apart.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = copy.deepcopy(model).float().cpu().eval()
        self.by_mode = 'mode' in inspect.signature(model.forward).parameters
        for module in self.model.modules():
            if isinstance(module, Neuron):
                module.fuse_norm = False
            if hasattr(module, 'packed_spikes'):
                module.packed_spikes = False

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor for _, tensor in self._named(inputs))

    def _named(self, inputs: Tensor) -> list[tuple[str, Tensor]]:
        out = self.model(inputs, mode='tensor') if self.by_mode else self.model(inputs)
        leaves, _ = tree_flatten_with_path(out)
        found = []
        for path, leaf in leaves:
            if isinstance(leaf, Tensor):
                found.append(('_'.join(str(getattr(key, 'idx', getattr(key, 'key', key))) for key in path), leaf))
        return found

    def output_names(self, sample: Tensor) -> list[str]:
        """Names of the outputs by their places: ``output``, or ``output_1_3`` for the fourth tensor of the second list.

        Raises:
            ValueError: ``mode='tensor'`` needs more than images, or gives no tensor.
        """
        with evaluating(self):
            try:
                found = self._named(sample)
            # whatever a model says to images without data samples
            except Exception as error:
                raise ValueError(
                    f"model: {type(self.model).__name__} gives nothing for images alone (mode='tensor'): "
                    f'{type(error).__name__}: {error}. Two-stage detectors and those with query heads need data '
                    'samples there; export their backbone: mmsnn.deploy takes any nn.Module'
                ) from error
        if not found:
            raise ValueError(f"model: {type(self.model).__name__} gives no tensor with mode='tensor'")
        return [f'output_{path}' if path else 'output' for path, _ in found]


def neurons_of(model: nn.Module) -> Iterator[tuple[str, Neuron]]:
    """The neurons of ``model`` by name."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, Neuron))


def encoder_of(model: nn.Module) -> DirectEncoder | None:
    """The encoder of ``model``, where it has one."""
    return next((m for m in model.modules() if isinstance(m, DirectEncoder)), None)


def check_encoder(model: nn.Module, what: str) -> None:
    """Raise ValueError where the encoder draws random spikes, which no exported graph can do alike."""
    if isinstance(encoder_of(model), PoissonEncoder):
        raise ValueError(
            f'backbone.encoder: Poisson encoding draws random spikes, and {what} would not draw the same; deploy a '
            "network with direct encoding (encoder=dict(type='DirectEncoder')), or encode in front of the network"
        )


def sample_like(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Random inputs of ``shape`` with the spread of normalised images, the same every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
