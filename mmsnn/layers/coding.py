"""The two ends of a spiking network: encoders put time into the batch, readouts take it out."""

from torch import Tensor, nn

from .time import TimeAware, fold, unfold

READOUTS = ('mean', 'none')


class DirectEncoder(TimeAware, nn.Module):
    """Direct encoding: the same analog input at every step; event frames keep their own steps.

    ``repeat`` may come after stateless layers (a stem's convolution and norm), which then run once instead of T times.

    Args:
        T: time steps.
    """

    def __init__(self, T: int):
        super().__init__()
        self.T = T

    def is_event(self, x: Tensor) -> bool:
        """Whether ``x`` holds event frames ``[B, T, C, H, W]``.

        Raises:
            ValueError: ``x`` is neither ``[B, C, H, W]`` nor event frames of T steps.
        """
        if x.dim() == 5 and x.shape[1] != self.T:
            raise ValueError(
                f'event frames {tuple(x.shape)} hold {x.shape[1]} time steps, the backbone has T={self.T}: '
                'set backbone.T, or the number of frames in the dataset'
            )
        if x.dim() not in (4, 5):
            raise ValueError(f'expected images [B, C, H, W] or event frames [B, T, C, H, W], got {tuple(x.shape)}')
        return x.dim() == 5

    def repeat(self, x: Tensor) -> Tensor:
        """``[B, ...]`` to ``[T*B, ...]``, every step the same."""
        return fold(x.unsqueeze(0).expand(self.T, *x.shape)) if self.T > 1 else x

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` or event frames ``[B, T, C, H, W]`` to ``[T*B, C, H, W]``."""
        return fold(x.transpose(0, 1)) if self.is_event(x) else self.repeat(x)


class Readout(TimeAware, nn.Module):
    """Takes time out of a folded tensor.

    Args:
        T: time steps.
        mode: ``mean`` gives rates ``[B, ...]``; ``none`` leaves ``[T*B, ...]`` to whoever asked for it.

    Raises:
        ValueError: unknown ``mode``.
    """

    def __init__(self, T: int, mode: str = 'mean'):
        super().__init__()
        if mode not in READOUTS:
            raise ValueError(f'readout must be one of {", ".join(READOUTS)}, got {mode!r}')
        self.T = T
        self.mode = mode

    def extra_repr(self) -> str:
        return f'T={self.T}, mode={self.mode}'

    def forward(self, x: Tensor) -> Tensor:
        """``[T*B, ...]`` to ``[B, ...]`` (mean over time) or unchanged."""
        return x if self.mode == 'none' else unfold(x, self.T).mean(0)
