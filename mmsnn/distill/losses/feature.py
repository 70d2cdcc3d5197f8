"""Losses on feature maps."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mmsnn.registry import MODELS

from .base import DistillLoss


@MODELS.register_module()
class FeatureMSE(DistillLoss):
    """SAKD's feature term (Qiu et al., Neural Networks 2024): mean squared error over all elements, summed over taps.

    ``sum_s MSE_mean(P_s(Fbar_s), sg F_A_s)`` with the connector ``P_s`` already applied. With the connector `Affine`,
    beside `LogitKL`, this is also the feature term of KDSNN (Xu et al., CVPR 2023).
    """

    def forward(self, student: list[Tensor], teacher: list[Tensor], data_samples=None) -> Tensor:
        return sum(F.mse_loss(s.float(), t.float()) for s, t in zip(student, teacher, strict=True))


@MODELS.register_module()
class BlurMSE(DistillLoss):
    """BKD's feature term (BKDSNN, Xu et al., ECCV 2024): squared error summed over a sample, mean over the batch.

    ``1/B * || R(A(Fbar) * M) - sg F_A ||^2`` with the connector `BlurRestore` already applied. The sum over C, H and W
    makes it large: alpha, the term's ``weight``, is 7e-5 (SEW, ImageNet) or 2e-3 (transformers, CIFAR, event data).
    """

    def forward(self, student: list[Tensor], teacher: list[Tensor], data_samples=None) -> Tensor:
        pairs = zip(student, teacher, strict=True)
        return sum(F.mse_loss(s.float(), t.float(), reduction='sum') / len(s) for s, t in pairs)


@MODELS.register_module()
class AttentionMSE(DistillLoss):
    """LaSNN's attention term (Hong et al., 2023), reconstructed from the paper; needs no connector.

    ``Q(F) = flatten(mean_c |F_c|^p)``, ``mean_l MSE_mean(Q / ||Q||_2 (Fbar_l), Q / ||Q||_2 (sg F_A_l))``. Maps of
    student and teacher may differ in width and in size; the larger attention map is resized bilinearly to the smaller
    one. The paper's beta is the term's ``weight``, 1000.

    Args:
        p: exponent of the activations.
    """

    same_shape = False
    maps = True

    def __init__(self, p: float = 2.0):
        super().__init__()
        self.p = p

    def forward(self, student: list[Tensor], teacher: list[Tensor], data_samples=None) -> Tensor:
        """The loss from maps ``[B, C, H, W]``."""
        pairs = list(zip(student, teacher, strict=True))
        return sum(self._layer(s, t) for s, t in pairs) / len(pairs)

    def _layer(self, s: Tensor, t: Tensor) -> Tensor:
        size = [min(a, b) for a, b in zip(s.shape[2:], t.shape[2:], strict=True)]
        return F.mse_loss(self._attention(s, size), self._attention(t, size))

    def _attention(self, x: Tensor, size: list[int]) -> Tensor:
        attention = x.float().abs().pow(self.p).mean(1, keepdim=True)
        if list(x.shape[2:]) != size:
            attention = F.interpolate(attention, size, mode='bilinear')
        return F.normalize(attention.flatten(1), dim=1)


@MODELS.register_module()
class AffineMSE(FeatureMSE):
    """Affine-projector distillation (Hu, Li, Deng, NCE 2025), reconstructed from the paper; use it with the connector
    `Affine`.

    ``|| W h_S + b - sg h_A ||^2 / d`` with the width d, averaged over the batch (and the positions of maps) and summed
    over taps.

    Args:
        pool: compare the means over all positions, so that the sizes of maps may differ. The connector runs before the
            mean, which gives the same result, because an affine map commutes with the mean.
    """

    def __init__(self, pool: bool = False):
        super().__init__()
        self.pool = pool
        self.same_shape = not pool

    def forward(self, student: list[Tensor], teacher: list[Tensor], data_samples=None) -> Tensor:
        """The loss from vectors ``[B, C]`` or maps ``[B, C, H, W]``; with ``pool`` only from maps."""
        if self.pool:
            student, teacher = ([x.float().flatten(2).mean(2) for x in xs] for xs in (student, teacher))
        return super().forward(student, teacher, data_samples)


@MODELS.register_module()
class PKD(DistillLoss):
    """PKD (Cao et al., NeurIPS 2022): compares features up to scale and shift, for stages or FPN levels of equal width.

    Every channel is normalised to mean 0 and variance 1 over batch and positions. The loss is ``MSE_mean / 2``, which
    equals 1 minus Pearson's correlation, summed over levels. A channel that is constant, such as one that is silent,
    becomes 0 and gets no gradient.
    """

    def forward(self, student: list[Tensor], teacher: list[Tensor], data_samples=None) -> Tensor:
        """The loss from maps ``[B, C, H, W]``."""
        pairs = zip(student, teacher, strict=True)
        return sum(F.mse_loss(self._standard(s), self._standard(t)) / 2 for s, t in pairs)

    @staticmethod
    def _standard(x: Tensor) -> Tensor:
        x = x.float()
        dims = [d for d in range(x.dim()) if d != 1]
        var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
        # A constant channel is 0 without a gradient, which would be infinite at variance 0.
        varies = var.detach() > 1e-12 * x.detach().square().mean(dims, keepdim=True)
        return (x - mean) * varies / torch.where(varies, var, 1.0).sqrt()
