"""Batch norms of spiking networks."""

import torch
from torch import Tensor, nn

from mmsnn.registry import MODELS

from .time import TimeAware, fold, unfold


@MODELS.register_module()
class TDBN(nn.BatchNorm2d):
    """Threshold-dependent batch norm (tdBN, Zheng et al., AAAI 2021): batch norm over (T, B, H, W) whose weight starts
    at ``alpha * v_threshold``.

    As time is folded into the batch, only the initial weight differs from `torch.nn.BatchNorm2d`. In configs it is
    ``norm_cfg=dict(type='mmsnn.TDBN')``.

    Args:
        num_features, kwargs: arguments of `torch.nn.BatchNorm2d`.
        v_threshold: threshold of the neurons that follow.
        alpha: 1, or ``1/sqrt(n)`` if n branches are summed before a neuron.
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

    The batch norm is the submodule ``bn``, so that a conversion to SyncBN replaces only it; checkpoints of ANNs do not
    have its keys. There is one learned factor ``p_t`` for each of the T steps with which the module is built: fewer
    time steps use the first factors, more are refused.

    Args:
        num_features, kwargs: arguments of `torch.nn.BatchNorm2d`.
        T: time steps.

    Attributes:
        mixes_time: True marks a norm that treats time steps differently and needs all of them: in training, its
            output for the first steps of a sequence differs from that for these steps alone, because its statistics
            are those of all steps.

    Raises:
        ValueError: in the forward pass, there are more time steps than factors, or T does not divide the batch.
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
