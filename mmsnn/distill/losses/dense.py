"""Losses on dense predictions: class scores of a detector's anchors, pixels and channels of a segmentor."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmsnn.registry import MODELS

from .base import REMEDY, AnswerLoss, DistillLoss
from .response import kl_divergence


@MODELS.register_module()
class DenseResponse(DistillLoss):
    """Soft labels for dense heads whose classes are sigmoids (RetinaNet, FCOS, RPN); mmsnn's own definition.

    Each anchor and class contributes ``|sigma(s) - sigma(t)|^2 * BCE(s, sg sigma(t))``. The sum over all levels is
    divided by the sum over anchors of the teacher's largest class probability (at least 1).

    Args:
        num_classes: classes per anchor; None reads ``cls_out_channels`` or ``num_classes`` of the student's head.
        head: name of the head in both models.

    Raises:
        ValueError: the numbers of classes of the two heads differ, a head uses a softmax, or the tapped tensors are
            not class logits.
    """

    answers = True

    def __init__(self, num_classes: int | None = None, head: str = 'bbox_head'):
        super().__init__()
        self.num_classes = num_classes
        self.head = head

    def bind(self, student_module: nn.Module, teacher_module: nn.Module) -> None:
        """Read the number of classes of both heads."""
        heads = [getattr(m, self.head, None) for m in (student_module, teacher_module)]
        heads = [head[-1] if isinstance(head, nn.ModuleList) else head for head in heads]
        counts = [getattr(head, 'cls_out_channels', getattr(head, 'num_classes', None)) for head in heads]
        for head in heads:
            if getattr(head, 'use_sigmoid_cls', True) is False:
                raise ValueError(
                    f'DenseResponse is for heads whose classes are sigmoids; {self.head} ({type(head).__name__}) '
                    'answers by a softmax. Take terms on features (FeatureMSE, PKD or AttentionMSE)'
                )
        if self.num_classes is None:
            self.num_classes = counts[0]
        known = {count for count in (self.num_classes, *counts) if count is not None}
        if len(known) != 1:
            raise ValueError(
                f'DenseResponse: classes per anchor of {self.head} are {counts[0]} in the student and {counts[1]} in '
                f'the teacher: they must be equal (num_classes={self.num_classes}). '
                + (
                    REMEDY
                    if known
                    else f'{self.head} ({type(heads[0]).__name__}) tells none: the queries of DETR or Sparse R-CNN '
                    'cannot be compared; of another head give the name (head=...) or num_classes'
                )
            )

    def check(self, student: list[Tensor], teacher: list[Tensor]) -> None:
        """Raise ValueError unless every tensor is a map with ``num_classes`` logits per anchor."""
        for i, x in enumerate((*student, *teacher)):
            if x.dim() != 4 or x.shape[1] % self.num_classes:
                raise ValueError(
                    f'DenseResponse reads class logits [B, anchors * {self.num_classes}, H, W], tensor '
                    f'{i % len(student)} is {tuple(x.shape)}: tap the part of {self.head} that answers the classes, '
                    'or, where classes and boxes are one tensor (YOLOv3), compare features'
                )
        if all(x.amin() > 0 and x.amax() < 1 for x in (*student, *teacher)):
            raise ValueError(
                f'DenseResponse reads logits, but everything tapped lies between 0 and 1, as after a sigmoid: tap the '
                f'layer in {self.head} that answers before it'
            )

    def forward(self, student: list[Tensor], teacher: list[Tensor], data_samples=None) -> Tensor:
        """The loss from class logits ``[B, A*C, H, W]`` of each level."""
        total, norm = 0.0, 0.0
        for s, t in zip(student, teacher, strict=True):
            s = s.float().unflatten(1, (-1, self.num_classes))
            p = t.float().unflatten(1, (-1, self.num_classes)).sigmoid()
            bce = F.binary_cross_entropy_with_logits(s, p, reduction='none')
            total = total + ((s.sigmoid() - p).square() * bce).sum()
            norm = norm + p.amax(2).sum()
        return total / torch.clamp(norm, min=1.0)


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
        head = getattr(student_module, 'decode_head', None)
        # A cascade predicts with its last head.
        head = head[-1] if isinstance(head, nn.ModuleList) else head
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
