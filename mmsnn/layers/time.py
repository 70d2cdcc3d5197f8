"""Time lives in the batch: inside spiking modules tensors are ``[T*B, ...]``, time step outermost."""

import threading

import torch
from torch import Tensor, nn

from mmsnn.ops.checks import check_time_steps


class TimeFoldingError(ValueError):
    """What a spiking module is given does not hold the time steps that the module reads from it."""


class TimeAware:
    """Mark of the modules that know T (encoders, neurons, readouts); `set_time_steps` sets it on all of them."""

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
        TypeError: ``T`` is no int.
        ValueError: ``T < 1``, or ``model`` holds no spiking module.
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
        ValueError: its modules disagree; `set_time_steps` makes them agree.
    """
    found = {m.T for m in model.modules() if isinstance(m, TimeAware)}
    if len(found) > 1:
        raise ValueError(f'the spiking modules of {type(model).__name__} have different T: {sorted(found)}')
    return found.pop() if found else 1


def fold(x: Tensor) -> Tensor:
    """``[T, B, ...]`` to ``[T*B, ...]``."""
    return x.flatten(0, 1)


def unfold(x: Tensor, T: int) -> Tensor:
    """``[T*B, ...]`` to ``[T, B, ...]``; ValueError where T does not divide the first dimension."""
    if x.shape[0] % T:
        raise ValueError(f'T={T} does not divide the first dimension of {tuple(x.shape)}: time is not folded into it')
    return x.unflatten(0, (T, -1))


class _Open(threading.local):
    """Whether a spiking backbone's forward runs in this thread, and the rows of its tensors, T*B (0: not known)."""

    def __init__(self):
        self.folded = False
        self.rows = 0


_open = _Open()


class time_folded:
    """Context in which tensors hold ``rows = T*B`` time steps and images, as behind an encoder.

    Neurons of a backbone fire in here alone. Every `mmsnn.models.SpikingBackbone` opens it around its forward. Open it
    to call the layers of a backbone one by one, on tensors into which time is folded: behind ``backbone.encoder(x)``.

    Args:
        rows: T*B.
    """

    def __init__(self, rows: int):
        self.rows = rows

    def __enter__(self) -> None:
        self.before = _open.folded, _open.rows
        # a compiled graph would hold for this number alone
        _open.folded, _open.rows = True, 0 if torch.compiler.is_compiling() else self.rows

    def __exit__(self, *_) -> None:
        _open.folded, _open.rows = self.before


# called where something is wrong already, or in the backward pass; a compiler takes its answer as it is
@torch.compiler.assume_constant_result
def in_backward() -> bool:
    """Whether a backward pass runs in this thread: activation checkpointing calls layers again in there."""
    return torch._C._current_graph_task_id() != -1


def check_encoded(owner: str, x: Tensor, T: int) -> None:
    """Raise TimeFoldingError unless ``x`` comes from the encoder of the backbone whose forward runs in this thread.

    Args:
        owner: the neuron's name, for the message.
        x: what it is given.
        T: its time steps.
    """
    if not _open.folded:
        # what activation checkpointing repeats was right the first time
        if not in_backward():
            raise TimeFoldingError(
                f'{owner} (T={T}) is called outside the forward of its backbone, whose encoder did not run: it would '
                f'take the images in {tuple(x.shape)} for time steps. Call the backbone as a whole; a network that '
                "calls its backbone's layers (mmseg's ICNet) becomes spiking as a whole, in mmsnn.Spikify with "
                'its own backbone; code that folds time itself calls layers in mmsnn.layers.time_folded(T * B)'
            )
    elif _open.rows and x.shape[0] % _open.rows:
        raise TimeFoldingError(
            f'{owner} (T={T}) is given {tuple(x.shape)}, where its encoder gives {_open.rows} rows (T*B): time is not '
            'folded into this input. Keep neurons off paths that images do not pass'
        )
