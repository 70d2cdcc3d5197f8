"""Losses for detectors: classes and boxes of anchors, and features inside and outside of objects."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmsnn.registry import MODELS

from .base import REMEDY, DistillLoss, find_head
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
        heads = [find_head(m, self.head) for m in (student_module, teacher_module)]
        counts = [getattr(head, 'cls_out_channels', getattr(head, 'num_classes', None)) for head in heads]
        _need_sigmoids('DenseResponse', self.head, heads)
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

    def logits(self, tensors: list[Tensor]) -> list[Tensor]:
        """All of them."""
        return tensors

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
class BoxResponse(DistillLoss):
    """The teacher's boxes for dense heads, weighted by how sure the teacher is of an object; mmsnn's own definition.

    ``sum_a p_a D_a / max(1, sum_a p_a)`` over the anchors a of all levels (points, for heads without anchors), with the
    teacher's largest class probability ``p_a``. ``D_a`` is the mean absolute difference of the four numbers of a box.
    Where a head answers a distribution for each side of the box (GFL), it is the mean over the sides of
    ``KL_tau(teacher || student)``, as in LD (Zheng et al., CVPR 2022).

    The taps are two, class logits and boxes: ``student=['bbox_head[0]', 'bbox_head[1]']``.

    Args:
        tau: temperature of distributions.
        head: name of the head in both models.

    Raises:
        ValueError: the taps are not class logits and boxes of the same anchors, the classes are a softmax, or only one
            head answers distributions.
    """

    same_shape = False

    def __init__(self, tau: float = 10.0, head: str = 'bbox_head'):
        super().__init__()
        self.tau = tau
        self.head = head
        self.num_classes = 1
        self.bins = 1

    def bind(self, student_module: nn.Module, teacher_module: nn.Module) -> None:
        """Read the number of classes, and of the bins of a distribution, from the heads."""
        ours, theirs = heads = [find_head(m, self.head) for m in (student_module, teacher_module)]
        _need_sigmoids('BoxResponse', self.head, heads)
        self.num_classes = getattr(theirs, 'cls_out_channels', self.num_classes)
        bins = [getattr(head, 'reg_max', 0) + 1 for head in (ours, theirs)]
        if bins[0] != bins[1]:
            raise ValueError(
                f'BoxResponse: {self.head} answers {bins[0]} numbers for a side of a box in the student and {bins[1]} '
                'in the teacher: set the same reg_max, or take terms on features'
            )
        self.bins = bins[0]

    def check(self, student: list[Tensor], teacher: list[Tensor]) -> None:
        """Raise ValueError unless the first half of the tensors are class logits, the second half their boxes."""
        asked = f"tap ['{self.head}[0]', '{self.head}[1]'], the parts of the heads that answer classes and boxes"
        if len(student) != len(teacher) or len(teacher) % 2:
            raise ValueError(f'BoxResponse reads as many class logits as boxes, got {len(teacher)} tensors: {asked}')
        for classes, boxes, ours in zip(*self._halves(teacher), self._halves(student)[1], strict=True):
            fits = classes.dim() == boxes.dim() == 4 and classes.shape[2:] == boxes.shape[2:]
            if not fits or classes.shape[1] * 4 * self.bins != boxes.shape[1] * self.num_classes:
                raise ValueError(
                    f'BoxResponse reads class logits [B, anchors * {self.num_classes}, H, W] and boxes [B, anchors * '
                    f'{4 * self.bins}, H, W], got {tuple(classes.shape)} and {tuple(boxes.shape)}: {asked}'
                )
            if ours.shape[1:] != boxes.shape[1:]:
                raise ValueError(
                    f'BoxResponse: the boxes are {tuple(ours.shape[1:])} in the student and {tuple(boxes.shape[1:])} '
                    'in the teacher: they need equal anchors and strides; others can be taught by terms on features'
                )

    def logits(self, tensors: list[Tensor]) -> list[Tensor]:
        """The classes."""
        return self._halves(tensors)[0]

    def forward(self, student: list[Tensor], teacher: list[Tensor], data_samples=None) -> Tensor:
        """The loss from class logits ``[B, A*C, H, W]`` of each level, followed by boxes ``[B, A*4*bins, H, W]``."""
        total, norm = 0.0, 0.0
        ours, (classes, theirs) = self._halves(student)[1], self._halves(teacher)
        for s, t, z in zip(ours, theirs, classes, strict=True):
            p = z.float().unflatten(1, (-1, self.num_classes)).amax(2).sigmoid()
            s, t = (x.float().unflatten(1, (-1, 4, self.bins)) for x in (s, t))
            if self.bins > 1:
                each = kl_divergence(t, s, self.tau, dim=3).mean(2)
            else:
                each = (s - t).abs().mean((2, 3))
            total, norm = total + (p * each).sum(), norm + p.sum()
        return total / torch.clamp(norm, min=1.0)

    @staticmethod
    def _halves(tensors: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        half = len(tensors) // 2
        return tensors[:half], tensors[half:]


@MODELS.register_module()
class FGD(DistillLoss):
    """The focal part of FGD (Yang et al., CVPR 2022) on the levels of a detector's pyramid: objects and the rest apart.

    With the teacher's attention over positions ``A_S = HW softmax(mean_c |F| / temp)`` and over channels
    ``A_C = C softmax(mean_hw |F| / temp)``, for each level and image::

        sum_chw (alpha M_fg + beta M_bg) A_S A_C (F_T - F_S)^2 + gamma (|A_S - A_S'|_1 + |A_C - A_C'|_1)

    ``M_fg`` is 1 / area of the smallest true box over a position, 0 outside of boxes; ``M_bg`` is 1 / number of the
    positions outside; A' is the student's attention. Summed over levels, mean over the images, as in the authors' code.
    Without boxes everything is background. A map shows the padded image, so boxes are scaled by its size. FGD's global
    part, whose context blocks learn with the student, is left out.

    Args:
        temp: temperature of the attention.
        alpha, beta, gamma: weights of objects, background and attention; the defaults are the paper's for RetinaNet.

    Raises:
        ValueError: the data samples have no boxes (``gt_instances.bboxes``), as in classification and segmentation.
    """

    maps = True

    def __init__(self, temp: float = 0.5, alpha: float = 1e-3, beta: float = 5e-4, gamma: float = 1e-3):
        super().__init__()
        self.temp, self.alpha, self.beta, self.gamma = temp, alpha, beta, gamma

    def forward(self, student: list[Tensor], teacher: list[Tensor], data_samples=None) -> Tensor:
        """The loss from maps ``[B, C, H, W]`` and the boxes of mmdet's data samples."""
        boxes = [self._boxes(sample) for sample in data_samples or ()]
        return sum(self._level(s.float(), t.float(), boxes) for s, t in zip(student, teacher, strict=True))

    def _level(self, s: Tensor, t: Tensor, boxes: list[tuple[Tensor, tuple[int, int]]]) -> Tensor:
        where, which = self._attention(t)
        ours = self._attention(s)
        inside = self._inside(t, boxes)
        outside = (inside == 0).to(t)
        outside = outside / outside.sum((1, 2), keepdim=True).clamp(min=1)
        importance = (self.alpha * inside + self.beta * outside) * where
        features = (importance[:, None] * which[:, :, None, None] * (s - t).square()).sum()
        attention = (where - ours[0]).abs().sum() + (which - ours[1]).abs().sum()
        return (features + self.gamma * attention) / len(t)

    def _attention(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Over positions ``[B, H, W]``, mean 1, and over channels ``[B, C]``, mean 1."""
        x = x.abs()
        where = (x.mean(1) / self.temp).flatten(1).softmax(1).view(len(x), *x.shape[2:])
        return where * where[0].numel(), (x.mean((2, 3)) / self.temp).softmax(1) * x.shape[1]

    @staticmethod
    def _boxes(sample) -> tuple[Tensor, tuple[int, int]]:
        """Boxes ``[n, 4]`` (left, top, right, bottom) in pixels, and height and width of the padded image."""
        if not hasattr(sample, 'gt_instances') or not hasattr(sample.gt_instances, 'bboxes'):
            raise ValueError('FGD tells objects from background by gt_instances.bboxes, and the data samples have none')
        boxes = sample.gt_instances.bboxes
        boxes = getattr(boxes, 'tensor', boxes)
        return boxes, tuple(sample.metainfo.get('batch_input_shape', sample.metainfo['img_shape'])[:2])

    @staticmethod
    def _inside(like: Tensor, boxes: list[tuple[Tensor, tuple[int, int]]]) -> Tensor:
        """``M_fg [B, H, W]`` of maps ``like [B, C, H, W]``."""
        B, _, H, W = like.shape
        inside = like.new_zeros(B, H, W)
        rows, columns = torch.arange(H, device=like.device), torch.arange(W, device=like.device)
        for i, (each, (height, width)) in enumerate(boxes):
            scale = each.new_tensor([W / width, H / height, W / width, H / height])
            # the cells from floor to ceil, both included, as in the authors' code
            x0, y0, x1, y1 = torch.cat([(each * scale)[:, :2].floor(), (each * scale)[:, 2:].ceil()], 1).unbind(1)
            over_x = (columns >= x0[:, None]) & (columns <= x1[:, None])
            over_y = (rows >= y0[:, None]) & (rows <= y1[:, None])
            share = 1 / ((x1 - x0 + 1) * (y1 - y0 + 1))
            if len(each):
                inside[i] = (over_y[:, :, None] & over_x[:, None, :]).to(like).mul(share[:, None, None]).amax(0)
        return inside


def _need_sigmoids(loss: str, name: str, heads: list) -> None:
    for head in heads:
        if getattr(head, 'use_sigmoid_cls', True) is False:
            raise ValueError(
                f'{loss} is for heads whose classes are sigmoids; {name} ({type(head).__name__}) answers by a softmax. '
                'Take terms on features (FeatureMSE, PKD or AttentionMSE)'
            )
