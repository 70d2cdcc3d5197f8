"""Non-maximum suppression, computed with torchvision. Boxes are ``[N, 4]``, as x1, y1, x2, y2."""

import torch
from torch import Tensor

from .common import torchvision_ops

__all__ = ['nms', 'nms_match', 'softnms']


def extended(boxes: Tensor, offset: int) -> Tensor:
    """``boxes`` enlarged by ``offset`` at x2 and y2, in float32, in which mmcv computes IoUs."""
    boxes = boxes.float()
    return torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices ``[K]`` of the kept boxes, best first; boxes whose IoU with a better one exceeds the threshold go."""
    # mmcv compares in float32: an IoU of exactly 0.6 is not above the float32 nearest to 0.6, but is above the double.
    threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    return torchvision_ops().nms(extended(boxes, offset), scores.float(), threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al., ICCV 2017); ``method`` 0 is plain NMS, 1 linear, 2 Gaussian.

    Writes the kept boxes and their lowered scores into the first K rows of ``dets`` ``[N, 5]``, and returns their
    indices ``[K]``.
    """
    box_iou = torchvision_ops().box_iou
    full, scores = extended(boxes, offset), scores.clone()
    left, kept = torch.arange(len(boxes), device=boxes.device), []
    while len(left):
        best = left[scores[left].argmax()]
        dets[len(kept)] = torch.cat([boxes[best], scores[best, None]])
        kept.append(best)
        left = left[left != best]
        iou = box_iou(full[best, None], full[left])[0]
        if method == 2:
            scores[left] *= torch.exp(-(iou**2) / sigma)
        else:
            scores[left] *= torch.where(iou >= iou_threshold, 1 - iou if method == 1 else 0.0, 1.0)
        left = left[scores[left] >= min_score]
    return torch.stack(kept) if kept else left


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """NMS on ``dets`` ``[N, 5]``: for each kept box a list of its index and those of the boxes that it suppresses."""
    box_iou = torchvision_ops().box_iou
    left, groups = dets[:, 4].sort(descending=True, stable=True).indices, []
    while len(left):
        suppressed = box_iou(dets[left[0], None, :4], dets[left, :4])[0] >= iou_threshold
        # The IoU of a box without area with itself is not 1.
        suppressed[0] = True
        groups.append(left[suppressed].tolist())
        left = left[~suppressed]
    return groups
