"""Time lives in the batch: inside spiking modules tensors are ``[T*B, ...]``, time step outermost."""

from torch import Tensor, nn

from mmsnn.ops.lif import check_time_steps


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
