"""Running a model on inputs while hooks observe its modules."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torchvision  # noqa: F401  registers its ops
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmsnn.layers import evaluating

Batch = Tensor | Mapping


@contextmanager
def watching(model: nn.Module, kinds: tuple[type, ...], hook) -> Iterator[None]:
    """Context with eval mode, no gradients, and a call of ``hook(name, module, x, output)`` after each call of a module
    of ``kinds``. At its end the modes are restored and the hooks removed, also after errors.
    """

    def attach(name, module):
        def call_hook(_, args, kwargs, output):
            hook(name, module, args[0] if args else next(iter(kwargs.values())), output)

        return module.register_forward_hook(call_hook, with_kwargs=True)

    handles = [attach(name, m) for name, m in model.named_modules() if isinstance(m, kinds)]
    try:
        with evaluating(model):
            yield
    finally:
        for handle in handles:
            handle.remove()


def flop_counter() -> FlopCounterMode:
    """PyTorch's counter of operations, which also counts deformable convolutions, as dense ordinary ones.

    It counts those of torchvision's op and of mmsnn's replacement of mmcv's ops, but not mmcv's compiled ops.
    """
    return FlopCounterMode(display=False, custom_mapping={torch.ops.torchvision.deform_conv2d: _deformable})


def _deformable(_, weight: torch.Size, *__, out_shape: torch.Size, **___) -> int:
    return 2 * out_shape.numel() * weight[1:].numel()


def as_batches(inputs: Batch | Iterable[Batch]) -> Iterable[Batch]:
    """One batch, or several, as an iterable of batches."""
    return [inputs] if isinstance(inputs, (Tensor, Mapping)) else inputs


def images_in(batch: Batch) -> int:
    """Number of images: the first dimension of a tensor, or the length of ``inputs`` in a batch of a data loader.

    Raises:
        TypeError: ``batch`` is neither.
    """
    if isinstance(batch, Mapping) and 'inputs' in batch:
        return len(batch['inputs'])
    if not isinstance(batch, Tensor) or batch.dim() == 0:
        raise TypeError(f"expected a tensor [B, ...] or a data batch with 'inputs', got {type(batch).__name__}")
    return batch.shape[0]


def run(model: nn.Module, batch: Batch):
    """One forward: ``model(batch)`` for a tensor, ``model.test_step(batch)`` for a batch of a data loader."""
    return model(batch) if isinstance(batch, Tensor) else model.test_step(batch)
