"""Connectors bring a student's feature to the teacher's width; they exist only in training."""

from torch import nn

from mmsnn.registry import MODELS


@MODELS.register_module()
class ConvBN(nn.Sequential):
    """SAKD's projector: a bias-free convolution and a batch norm, no activation (1x1; 3x3 for CIFAR ResNets).

    Args:
        in_channels, out_channels: widths of student and teacher; the Distiller fills them in.
        kernel_size: odd.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1):
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
            nn.BatchNorm2d(out_channels),
        )
