"""Watching the calls of modules without changing how they run."""

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmsnn.layers.time import in_backward

from .watched import run_eagerly


class Watcher:
    """Context in which `_see` is called with the inputs and the output of every call of named modules.

    Only these modules have hooks, and only inside the context. The hooks take keyword arguments, because hooks that do
    not would make norm and neuron run as two ops. Calls that activation checkpointing repeats in the backward pass are
    left out.

    Args:
        modules: neurons or other layers, by name.
        eager: whether compiled parts of the network run as plain PyTorch inside the context, because compiled code
            ignores hooks.
    """

    def __init__(self, modules: dict[str, nn.Module], eager: bool = True):
        self.modules = modules
        self._handles: list[RemovableHandle] = []
        self._is_eager = eager
        self._eager: AbstractContextManager = nullcontext()

    def __enter__(self):
        self._eager = run_eagerly() if self._is_eager else nullcontext()
        self._eager.__enter__()
        self._handles = [
            module.register_forward_hook(self._hook(name), with_kwargs=True) for name, module in self.modules.items()
        ]
        return self

    def __exit__(self, *exception) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._eager.__exit__(*exception)

    def _hook(self, name: str):
        def see(module, args, kwargs, output):
            if not in_backward():
                self._see(name, module, args, kwargs, output[0] if isinstance(output, tuple) else output)

        return see

    def _see(self, name: str, module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
        """Handle a call of ``module``; ``output`` is its first output."""
        raise NotImplementedError
