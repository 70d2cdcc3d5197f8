"""Batch norms of spiking networks."""

import torch
from torch import Tensor, nn

from mmsnn.registry import MODELS

from .time import TimeAware, fold, unfold


@MODELS.register_module()
class TDBN(nn.BatchNorm2d):
    """Threshold-dependent batch norm (tdBN, Zheng et al., AAAI 2021): batch norm over (T, B, H, W) whose weight starts
    at ``alpha * v_threshold``.

    With time in the batch that is `torch.nn.BatchNorm2d` with another start: ``norm_cfg=dict(type='mmsnn.TDBN')``.

    Args:
        num_features, kwargs: as for `torch.nn.BatchNorm2d`.
        v_threshold: threshold of the neurons behind it.
        alpha: 1, or ``1/sqrt(n)`` where n branches meet in front of a neuron.
    """

    scale = 1.0

    def __init__(self, num_features: int, *, v_threshold: float = 1.0, alpha: float = 1.0, **kwargs):
        super().__init__(num_features, **kwargs)
        self.scale = alpha * v_threshold
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.affine:
            nn.init.constant_(self.weight, self.scale)


@MODELS.register_module()
class TEBN(TimeAware, nn.Module):
    """Temporal effective batch norm (TEBN, Duan et al., NeurIPS 2022): ``p_t * BN(x_t)``, statistics over (T, B, H, W).

    The batch norm is ``bn`` inside, so that synchronised batch norm replaces it alone; checkpoints of ANNs do not have
    its keys. The learnt ``p`` belongs to the T it was built with: fewer time steps use its beginning, more are refused.

    Args:
        num_features, kwargs: as for `torch.nn.BatchNorm2d`.
        T: time steps.

    Attributes:
        mixes_time: the steps are told apart: its input has to be unfolded time, and a prefix of the steps is not what
            fewer steps give.

    Raises:
        ValueError: in the forward pass, for more time steps than it was built with, or if T does not divide the batch.
    """

    _abbr_ = 'bn'
    mixes_time = True

    def __init__(self, num_features: int, *, T: int = 4, **kwargs):
        super().__init__()
        self.T = T
        self.bn = nn.BatchNorm2d(num_features, **kwargs)
        self.p = nn.Parameter(torch.ones(T))

    def forward(self, x: Tensor) -> Tensor:
        """``[T*B, C, H, W]`` to the same shape."""
        if len(self.p) < self.T:
            raise ValueError(f'TEBN was built for T={len(self.p)} and has no factors for the later steps of T={self.T}')
        x = unfold(self.bn(x), self.T)
        return fold(x * self.p[: self.T].to(x.dtype).view(-1, *[1] * (x.dim() - 1)))
