"""The exportable form of a task model: one tensor in, the tensors of ``mode='tensor'`` out."""

import copy
import inspect
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path

from mmsnn.inference.switch import engine_of, event_driven
from mmsnn.layers import DirectEncoder, PoissonEncoder, evaluating
from mmsnn.neurons import Neuron


class Network(nn.Module):
    """A copy of a task model (or of any network) in evaluation mode that returns a flat tuple of tensors.

    The outputs are those of ``model(inputs, mode='tensor')`` in the same order: for mmdet's single-stage detectors the
    class scores of every level, then the box deltas; for mmseg's segmentors the logits ``[B, K, h, w]``; for
    mmpretrain's classifiers the logits ``[B, K]``. Inputs are normalised images ``[B, C, H, W]``, as the data
    preprocessor returns them, or event frames ``[B, T, C, H, W]``.

    Args:
        model: the network, which is not changed.

    Attributes:
        model: the copy, in float32 on the CPU, with unpacked spikes and with norms that are not fused into neurons. It
            does not run on events (`mmsnn.event_driven`). Neurons with a registered surrogate have another one, because
            the compiled op knows no registered ones and spikes do not depend on it.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = copy.deepcopy(model).float().cpu().eval()
        self.by_mode = 'mode' in inspect.signature(model.forward).parameters
        if engine_of(self.model) is not None:
            event_driven(self.model, enabled=False)
        for module in self.model.modules():
            if isinstance(module, Neuron):
                module.fuse_norm = False
                if module.settings.encoded is None:
                    module.settings = replace(module.settings, surrogate='atan', alpha=None)
            if hasattr(module, 'packed_spikes'):
                module.packed_spikes = False

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor for _, tensor in self._named(inputs))

    def _named(self, inputs: Tensor) -> list[tuple[str, Tensor]]:
        out = self.model(inputs, mode='tensor') if self.by_mode else self.model(inputs)
        leaves, _ = tree_flatten_with_path(out)
        named = []
        for path, leaf in leaves:
            if isinstance(leaf, Tensor):
                named.append(('_'.join(str(getattr(key, 'idx', getattr(key, 'key', key))) for key in path), leaf))
        return named

    def output_names(self, sample: Tensor) -> list[str]:
        """Names of the outputs: ``output`` for one tensor, ``output_1_3`` for the fourth tensor of the second list.

        Raises:
            ValueError: ``mode='tensor'`` needs data samples, or returns no tensor.
        """
        with evaluating(self):
            try:
                named = self._named(sample)
            # a model may raise any exception when it is given no data samples
            except Exception as error:
                raise ValueError(
                    f"model: {type(self.model).__name__} cannot run on images alone (mode='tensor'): "
                    f'{type(error).__name__}: {error}. Two-stage detectors and detectors with query heads need data '
                    'samples in this mode; export their backbone instead: mmsnn.deploy takes any nn.Module'
                ) from error
        if not named:
            raise ValueError(f"model: {type(self.model).__name__} returns no tensor with mode='tensor'")
        return [f'output_{path}' if path else 'output' for path, _ in named]


def neurons_of(model: nn.Module) -> Iterator[tuple[str, Neuron]]:
    """Name and module of every neuron in ``model``."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, Neuron))


def encoder_of(model: nn.Module) -> DirectEncoder | None:
    """The first encoder in ``model``, or None."""
    return next((m for m in model.modules() if isinstance(m, DirectEncoder)), None)


def check_encoder(model: nn.Module, what: str) -> None:
    """Raise ValueError if an encoder draws random spikes, which ``what`` (a noun in the message) cannot reproduce."""
    if any(isinstance(module, PoissonEncoder) for module in model.modules()):
        raise ValueError(
            f'backbone.encoder: Poisson encoding draws random spikes, which {what} cannot reproduce; deploy a network '
            "with direct encoding (encoder=dict(type='DirectEncoder')), or encode the images before the network"
        )


def sample_like(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Standard normal inputs of ``shape``, as spread out as normalised images; the same for the same ``seed``."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
