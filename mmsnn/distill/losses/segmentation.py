"""Losses for segmentors: classes of pixels, and where in the image a channel is active."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmsnn.registry import MODELS

from .base import AnswerLoss, DistillLoss, find_head
from .response import kl_divergence


@MODELS.register_module()
class PixelKL(AnswerLoss):
    """Soft labels of a segmentation head: ``KL_tau`` per pixel, mean over the pixels that are not ignored.

    The label map is resized to the logits by nearest neighbour.

    Args:
        tau: temperature.
        ignore_index: label of the pixels that are ignored; None reads it from the student's decode head.
    """

    maps = True

    def __init__(self, tau: float = 1.0, ignore_index: int | None = None):
        super().__init__()
        self.tau = tau
        self.ask_head = ignore_index is None
        self.ignore_index = 255 if ignore_index is None else ignore_index

    def bind(self, student_module: nn.Module, teacher_module: nn.Module) -> None:
        """Read ``ignore_index`` from the student's decode head, unless it was given."""
        head = find_head(student_module, 'decode_head')
        if self.ask_head:
            self.ignore_index = getattr(head, 'ignore_index', self.ignore_index)

    def forward(self, student: list[Tensor], teacher: list[Tensor], data_samples=None) -> Tensor:
        """The loss from logits ``[B, K, h, w]``; data samples need ``gt_sem_seg``, without them all pixels count."""
        total = 0.0
        for s, t in zip(student, teacher, strict=True):
            each = kl_divergence(t, s, self.tau)
            valid = self._valid(each, data_samples)
            total = total + (each * valid).sum() / valid.sum().clamp(min=1)
        return total

    def _valid(self, each: Tensor, data_samples) -> Tensor:
        if not data_samples:
            return torch.ones_like(each)
        labels = torch.stack([d.gt_sem_seg.data for d in data_samples]).to(each)
        return (F.interpolate(labels, each.shape[-2:], mode='nearest')[:, 0] != self.ignore_index).to(each)


@MODELS.register_module()
class ChannelWiseKL(DistillLoss):
    """Channel-wise distillation (Shu et al., ICCV 2021): ``KL_tau`` between softmaxes over the positions of a channel.

    The divergence is summed over positions and averaged over batch and channels.

    Args:
        tau: temperature.
    """

    maps = True

    def __init__(self, tau: float = 4.0):
        super().__init__()
        self.tau = tau

    def forward(self, student: list[Tensor], teacher: list[Tensor], data_samples=None) -> Tensor:
        """The loss from maps ``[B, C, h, w]``."""
        pairs = zip(student, teacher, strict=True)
        return sum(kl_divergence(t.flatten(2), s.flatten(2), self.tau, dim=2).mean() for s, t in pairs)
