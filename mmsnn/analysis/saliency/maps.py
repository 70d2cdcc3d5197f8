"""Saliency maps of one image, and measures of the agreement of two maps."""

import math

from torch import Tensor


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine similarity of two maps; NaN if one is all zeros."""
    a, b = a.flatten().double(), b.flatten().double()
    norms = a.norm() * b.norm()
    return (a @ b / norms).item() if norms > 0 else math.nan


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two maps; NaN if one is constant."""
    if a.max() == a.min() or b.max() == b.min():
        return math.nan
    # Imported here, because the import takes a second.
    from scipy.stats import spearmanr

    return float(spearmanr(a.flatten().numpy(), b.flatten().numpy()).statistic)


def top_pixels(saliency: Tensor, percent: float) -> Tensor:
    """Mask of the top ``percent`` of the pixels of a map, including pixels that are equal to the last of them.

    The lowest value of the map is never included: a constant map has no top pixels, and a sparse map has fewer.
    """
    count = max(1, round(saliency.numel() * percent / 100))
    edge = saliency.flatten().topk(count).values[-1]
    return (saliency >= edge) & (saliency > saliency.min())


def iou(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two masks; NaN if one is empty."""
    return ((a & b).sum() / (a | b).sum()).item() if a.any() and b.any() else math.nan


def gradient_x_input(x: Tensor, gradient: Tensor) -> Tensor:
    """``|x * gradient|`` of one image ``[1, C, H, W]`` or ``[1, T, C, H, W]``, summed over all but ``[H, W]``."""
    return (x * gradient).abs().flatten(0, -3).sum(0)


def grad_cam(feature: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017) of one image: ``relu(sum_c mean_hw(gradient_c) * feature_c)``, ``[h, w]``.

    Features ``[T, C, h, w]`` of a spiking layer and their gradients are averaged over time first. The map then equals
    that of the firing rates after the readout, up to a factor T.
    """
    feature, gradient = feature.mean(0), gradient.mean(0)
    return (gradient.mean((1, 2), keepdim=True) * feature).sum(0).relu()
