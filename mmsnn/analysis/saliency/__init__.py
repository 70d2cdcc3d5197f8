"""Saliency consistency: whether a student and its teacher use the same pixels (Hu, Li, Deng, NCE 2025).

It is reconstructed from the paper and not compared with the paper's own figures, which are not available. It is a
measurement, not a loss.
"""

from .compare import compare
from .maps import cosine, grad_cam, gradient_x_input, iou, spearman, top_pixels
from .report import KINDS, ROLES, Figures, ImageSaliency, SaliencyReport

__all__ = [
    'Figures',
    'ImageSaliency',
    'KINDS',
    'ROLES',
    'SaliencyReport',
    'compare',
    'cosine',
    'grad_cam',
    'gradient_x_input',
    'iou',
    'spearman',
    'top_pixels',
]
