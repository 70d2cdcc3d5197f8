"""Mixed precision where there is no GPU."""

from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner.amp import autocast
from torch import nn

from mmsnn.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Mixed precision on a CPU: forward passes in bfloat16 by `torch.autocast`, weights and optimizer in float32.

    bfloat16 has the range of float32, so the loss is not scaled. mmengine's ``AmpOptimWrapper`` refuses a CPU.

    Args:
        dtype: ``bfloat16``, as a string or a torch dtype; the only one for which PyTorch has fast kernels on a CPU.
        wrapped: arguments of `mmengine.optim.OptimWrapper`.

    Raises:
        ValueError: ``dtype`` is another one.
    """

    def __init__(self, *args, dtype: str | torch.dtype = torch.bfloat16, **wrapped):
        super().__init__(*args, **wrapped)
        if dtype not in ('bfloat16', torch.bfloat16):
            raise ValueError(f'optim_wrapper.dtype={dtype!r}: mixed precision on a CPU takes bfloat16 alone')

    @contextmanager
    def optim_context(self, model: nn.Module):
        """A context for the forward pass of ``model``, as in mmengine, with autocast."""
        with super().optim_context(model), autocast(device_type='cpu', dtype=torch.bfloat16):
            yield
