"""Running norm and neuron as two ops while hooks watch them, with the autograd graph of the fused op.

Activation checkpointing runs layers a second time in the backward pass and matches the tensors saved then with those
saved in the forward pass, one by one. Hooks may have been added or removed in between. So the tensors that the two ops
save are hidden from it, and it is shown the tensors that the fused op would have saved.
"""

import sys
import threading
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from mmsnn.layers.time import in_backward
from mmsnn.ops.bn_lif import save_as_bn_lif

from .norms import norm_arguments


def is_watched(module: nn.Module) -> bool:
    """Whether ``module`` has hooks."""
    hooks = '_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks'
    return any(getattr(module, name) for name in hooks)


def sees_input(neuron: nn.Module) -> bool:
    """Whether ``neuron`` has hooks that need its input, because they do not take the keyword argument ``norm``."""
    return bool(
        neuron._forward_hooks.keys() - neuron._forward_hooks_with_kwargs.keys()
        or neuron._forward_pre_hooks.keys() - neuron._forward_pre_hooks_with_kwargs.keys()
        or neuron._backward_hooks
        or neuron._backward_pre_hooks
    )


def run_eagerly():
    """Context in which compiled parts run as plain PyTorch; compiled code ignores hooks that are added later."""
    if 'torch._dynamo' in sys.modules and hasattr(torch.compiler, 'set_stance'):
        return torch.compiler.set_stance('force_eager')
    return nullcontext()


class SavedAside(torch.autograd.graph.saved_tensors_hooks):
    """Context whose tensors are saved for the backward pass without passing through surrounding saved-tensor hooks."""

    def __init__(self):
        super().__init__(_pack, _unpack)


def _pack(x: Tensor) -> tuple[Tensor, int]:
    # Detached, because a node that holds its own output would never be freed.
    return x.detach(), x._version


def _unpack(packed: tuple[Tensor, int]) -> Tensor:
    x, version = packed
    if x._version != version:
        raise RuntimeError(
            f'a tensor {tuple(x.shape)} that the backward pass of a norm or neuron with hooks needs was modified by an '
            'inplace operation: hooks must not change it'
        )
    return x


def fire_apart(neuron: nn.Module, norm: nn.Module, last: nn.Module, x: Tensor, pays) -> Tensor:
    """``neuron(norm(x))`` as two ops, which save what the fused op would save if it would run without hooks.

    Args:
        neuron: a `Neuron`.
        norm: the norm, or a sequence that ends in it.
        last: the norm itself.
        x: input of ``norm``.
        pays: ``pays(norm, input)`` tells whether one op is faster.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return neuron(norm(x))
    with _aside_in(last, pays) as given:
        y = norm(x)
    if given.x is None:
        return neuron(y)
    with SavedAside():
        out = neuron(y)
    # The computation of tau saves its tensors before the op saves its own, as in the fused op.
    tau = neuron.tau
    return save_as_bn_lif(out, given.x, norm_arguments(last), tau, in_backward())


@contextmanager
def _aside_in(norm: nn.Module, pays):
    """Context in which a call of ``norm`` saves its tensors as in `SavedAside` if ``pays``; yields the call's input."""
    mine, given, aside = threading.get_ident(), SimpleNamespace(x=None), SavedAside()

    def before(module, inputs):
        if threading.get_ident() == mine and pays(norm, inputs[0]):
            given.x = inputs[0]
            aside.__enter__()

    def after(*_):
        if threading.get_ident() == mine and given.x is not None:
            aside.__exit__()

    handles = [
        norm.register_forward_pre_hook(before, prepend=True),
        norm.register_forward_hook(after, always_call=True),
    ]
    try:
        yield given
    finally:
        for handle in handles:
            handle.remove()
