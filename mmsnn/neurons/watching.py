"""The context in which neurons are watched without running otherwise than they would."""

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmsnn.layers.time import in_backward

from .watched import run_eagerly


class Watcher:
    """Context in which `_see` is called with what named neurons emit, call by call.

    Hooks sit in the neurons alone, and only inside the context. They take keyword arguments, because hooks without
    them would part a neuron from its norm. Compiled parts of a network run as plain PyTorch meanwhile, because compiled
    code passes hooks by. What activation checkpointing computes again in the backward pass is no call.

    Args:
        neurons: the neurons by name.
    """

    def __init__(self, neurons: dict[str, nn.Module]):
        self._neurons = neurons
        self._handles: list[RemovableHandle] = []
        self._eager: AbstractContextManager = nullcontext()

    def __enter__(self):
        self._eager = run_eagerly()
        self._eager.__enter__()
        self._handles = [
            neuron.register_forward_hook(self._hook(name), with_kwargs=True) for name, neuron in self._neurons.items()
        ]
        return self

    def __exit__(self, *exception) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._eager.__exit__(*exception)

    def _hook(self, name: str):
        def see(neuron, args, kwargs, output):
            if not in_backward():
                self._see(name, neuron, args, kwargs, output[0] if isinstance(output, tuple) else output)

        return see

    def _see(self, name: str, neuron: nn.Module, args: tuple, kwargs: dict, spikes: Tensor) -> None:
        """Do something with what ``neuron`` made of ``args`` and ``kwargs``."""
        raise NotImplementedError
