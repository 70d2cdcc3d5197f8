"""The context in which modules are watched without running otherwise than they would."""

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmsnn.layers.time import in_backward

from .watched import run_eagerly


class Watcher:
    """Context in which `_see` is called with what named modules emit, call by call.

    Hooks sit in these modules alone, and only inside the context. They take keyword arguments, because hooks without
    them would part a neuron from its norm. What activation checkpointing computes again in the backward pass is no
    call.

    Args:
        modules: neurons, or other layers, by name.
        eager: whether compiled parts of a network run as plain PyTorch meanwhile; compiled code passes hooks by.
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
        """Do something with what ``module`` made of ``args`` and ``kwargs``."""
        raise NotImplementedError
