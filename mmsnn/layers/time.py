"""Time steps are folded into the batch: inside spiking modules tensors are ``[T*B, ...]``, time step outermost."""

import threading

import torch
from torch import Tensor, nn

from mmsnn.ops.checks import check_time_steps


class TimeFoldingError(ValueError):
    """The input of a spiking module does not hold the time steps that the module expects."""


class TimeAware:
    """Mixin of the modules that have a number of time steps T (encoders, neurons, readouts); see `set_time_steps`."""

    _T = 1

    @property
    def T(self) -> int:
        """Number of time steps."""
        return self._T

    @T.setter
    def T(self, value: int) -> None:
        check_time_steps(value)
        self._T = int(value)


def set_time_steps(model: nn.Module, T: int) -> nn.Module:
    """Set the number of time steps of every spiking module in ``model``, in place; returns ``model``.

    Training and inference may use different T. Checkpoints do not depend on T.

    Raises:
        TypeError: ``T`` is not an int.
        ValueError: ``T < 1``, or ``model`` has no spiking module.
    """
    check_time_steps(T)
    aware = [m for m in model.modules() if isinstance(m, TimeAware)]
    if not aware:
        raise ValueError(f'{type(model).__name__} has no spiking module whose T could be set')
    for module in aware:
        module.T = T
    return model


def get_time_steps(model: nn.Module) -> int:
    """T of the spiking modules in ``model``; 1 for a network without any.

    Raises:
        ValueError: the modules have different T; `set_time_steps` sets one for all.
    """
    steps = {m.T for m in model.modules() if isinstance(m, TimeAware)}
    if len(steps) > 1:
        raise ValueError(f'the spiking modules of {type(model).__name__} have different T: {sorted(steps)}')
    return steps.pop() if steps else 1


def fold(x: Tensor) -> Tensor:
    """Reshape ``[T, B, ...]`` to ``[T*B, ...]``."""
    return x.flatten(0, 1)


def unfold(x: Tensor, T: int) -> Tensor:
    """Reshape ``[T*B, ...]`` to ``[T, B, ...]``; ValueError if T does not divide the first dimension."""
    if x.shape[0] % T:
        raise ValueError(f'T={T} does not divide the first dimension of {tuple(x.shape)}: time is not folded into it')
    return x.unflatten(0, (T, -1))


class _Open(threading.local):
    """Whether the forward of a spiking backbone runs in this thread, and its T*B (0 if unknown)."""

    def __init__(self):
        self.folded = False
        self.rows = 0


_open = _Open()


class time_folded:
    """Context in which the first dimension of tensors is ``rows = T*B``, as after an encoder.

    The neurons of a backbone raise an error outside of it. The forward of `mmsnn.models.SpikingBackbone` opens it.
    Open it yourself to call the layers of a backbone one by one, after ``x = backbone.encoder(x)``.

    Args:
        rows: T*B, the length of the first dimension.
    """

    def __init__(self, rows: int):
        self.rows = rows

    def __enter__(self) -> None:
        self.before = _open.folded, _open.rows
        # A compiled graph would otherwise be valid for this number only.
        _open.folded, _open.rows = True, 0 if torch.compiler.is_compiling() else self.rows

    def __exit__(self, *_) -> None:
        _open.folded, _open.rows = self.before


# Compiled code uses the answer of the time of compilation; it matters only for errors and in the backward pass.
@torch.compiler.assume_constant_result
def in_backward() -> bool:
    """Whether a backward pass runs in this thread, in which activation checkpointing calls layers again."""
    return torch._C._current_graph_task_id() != -1


def check_encoded(owner: str, x: Tensor, T: int) -> None:
    """Raise TimeFoldingError unless ``x`` comes from the encoder of the backbone whose forward runs in this thread.

    Args:
        owner: name of the neuron, for the message.
        x: input of the neuron.
        T: time steps of the neuron.
    """
    if not _open.folded:
        # Activation checkpointing repeats a call that was checked in the forward pass.
        if not in_backward():
            raise TimeFoldingError(
                f'{owner} (T={T}) is called outside the forward of its backbone, whose encoder did not run: it would '
                f'take the images in {tuple(x.shape)} for time steps. Call the backbone as a whole. A network that '
                "calls the layers of its backbone itself (mmseg's ICNet) has to be made spiking as a whole: wrap its "
                'own backbone in mmsnn.Spikify. Code that folds time itself calls layers inside the context '
                'mmsnn.layers.time_folded(T * B)'
            )
    elif _open.rows and x.shape[0] % _open.rows:
        raise TimeFoldingError(
            f'{owner} (T={T}) is given {tuple(x.shape)}, but its encoder gives {_open.rows} rows (T*B): time is not '
            'folded into this input. Use neurons only on paths that images pass'
        )
