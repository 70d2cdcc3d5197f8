"""Where PyTorch's own functions do the work of the ops, because compiled ones are unknown there."""

import torch

from .neuron import NeuronSettings


def is_transformed() -> bool:
    """Whether `torch.func` or forward-mode differentiation runs, which know PyTorch's own functions alone."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None or torch.autograd.forward_ad._current_level >= 0


def runs_plain(settings: NeuronSettings) -> bool:
    """Whether `mmsnn.ops.reference` does it: for registered surrogates, under transforms, and where ONNX is written."""
    if settings.encoded is None or is_transformed():
        return True
    # The question about ONNX takes microseconds; only a network that is being traced can be on its way there.
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return traced and torch.onnx.is_in_onnx_export()
