"""Losses on feature maps."""

from torch import Tensor
from torch.nn import functional as F

from mmsnn.registry import MODELS

from .base import DistillLoss


@MODELS.register_module()
class FeatureMSE(DistillLoss):
    """SAKD's feature term (Qiu et al., Neural Networks 2024): mean squared error over all elements, summed over taps.

    ``sum_s MSE_mean(P_s(Fbar_s), sg F_A_s)`` with the connector ``P_s`` already applied.
    """

    def forward(self, student: list[Tensor], teacher: list[Tensor], data_samples=None) -> Tensor:
        return sum(F.mse_loss(s.float(), t.float()) for s, t in zip(student, teacher, strict=True))
