"""Saliency consistency: do a student and its teacher look at the same pixels? (Hu, Li, Deng, NCE 2025)

A reconstruction: the paper's own figures could not be had. It is a measurement and no loss.
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
