"""Connectors: layers that bring a student's feature to the teacher's width; they exist only in training."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmsnn.registry import MODELS, build_own


@MODELS.register_module()
class ConvBN(nn.Sequential):
    """SAKD's projector: a bias-free convolution and a batch norm, no activation (1x1; 3x3 for CIFAR ResNets).

    Args:
        in_channels, out_channels: widths of student and teacher; the Distiller fills them in.
        kernel_size: odd size of the kernel.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1):
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
            nn.BatchNorm2d(out_channels),
        )


@MODELS.register_module()
class Affine(nn.Linear):
    """The affine projector ``W h + b`` (Hu, Li, Deng, NCE 2025); on maps it is applied at every position.

    Args:
        in_channels, out_channels: widths of student and teacher; the Distiller fills them in.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, ...]`` to ``[B, C', ...]``."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


@MODELS.register_module()
class WeakHead(nn.Linear):
    """TSSD's weak head (Zuo et al., 2024): the global mean of a middle stage, followed by a linear layer.

    Args:
        in_channels: width of the stage; the Distiller fills it in.
        out_channels: number of classes; the Distiller fills in the width of the term's first tensor.
        pool: whether to average over positions first. False gives logits for each position, which segmentors and
            detectors need; this is mmsnn's extension, the paper only classifies.
    """

    def __init__(self, in_channels: int, out_channels: int, pool: bool = True):
        super().__init__(in_channels, out_channels)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[B, C, H, W]`` to logits ``[B, K]``, or ``[B, K, H, W]`` without pooling."""
        if self.pool:
            return super().forward(x.flatten(2).mean(2))
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


ENLARGING = ('bilinear', 'bicubic', 'nearest')


@MODELS.register_module()
class Resize(nn.Module):
    """Resizes the student's maps to the size of the teacher's, for stages whose strides differ.

    Larger maps are made by interpolation (``mode``), smaller ones by adaptive average pooling.

    Example::

        connector=dict(type='Resize', connector=dict(type='ConvBN'))

    Args:
        in_channels, out_channels: widths of student and teacher, which are passed on to ``connector``; the Distiller
            fills them in.
        connector: config of a connector that runs before the resizing and brings the map to the teacher's width;
            None keeps the student's width.
        mode: interpolation mode of `torch.nn.functional.interpolate`.

    Attributes:
        needs_target: True tells the Distiller to pass the teacher's tensor as well.
    """

    needs_target = True

    def __init__(self, in_channels: int, out_channels: int, connector: dict | None = None, mode: str = 'bilinear'):
        super().__init__()
        if mode not in ENLARGING:
            raise ValueError(f'Resize takes mode={"|".join(ENLARGING)}, got {mode!r}')
        widths = dict(in_channels=in_channels, out_channels=out_channels)
        self.connector = nn.Identity() if connector is None else build_own({**widths, **connector})
        self.mode = mode

    def forward(self, x: Tensor, target: Tensor | None) -> Tensor:
        """Maps ``[B, C, H, W]``, and the teacher's ``[B, C', H', W']``, to ``[B, C', H', W']``.

        Raises:
            ValueError: one of the two tensors is not a map, or there is no teacher.
        """
        if target is None or target.dim() != 4 or x.dim() != 4:
            shapes = tuple(x.shape), None if target is None else tuple(target.shape)
            raise ValueError(f"Resize brings a map [B, C, H, W] to the size of the teacher's, got {shapes}")
        x, size = self.connector(x), target.shape[2:]
        # Height and width are treated separately, because one may grow while the other shrinks.
        smaller = [min(a, b) for a, b in zip(x.shape[2:], size, strict=True)]
        if smaller != list(x.shape[2:]):
            x = F.adaptive_avg_pool2d(x, smaller)
        return x if x.shape[2:] == size else F.interpolate(x, size, mode=self.mode)


MASKS = ('channel', 'spatial', 'element')


@MODELS.register_module()
class BlurRestore(nn.Module):
    """BKD's blur and restoration ``R(A(x) * M)`` (BKDSNN, Xu et al., ECCV 2024), for the loss `BlurMSE`.

    ``A`` is a 1x1 convolution, present only where the widths differ. ``M`` is 0 with probability ``ratio`` and 1
    otherwise; nothing is rescaled, and in eval mode nothing is masked. ``R`` is a 3x3 convolution, a ReLU and another
    3x3 convolution, with biases and the teacher's width.

    Args:
        in_channels, out_channels: widths of student and teacher; the Distiller fills them in.
        ratio: lambda, the probability with which a unit is masked.
        mask: the unit that is masked as a whole: a ``channel`` of a sample (as in the paper), a ``spatial`` position,
            or a single ``element``.
        reduce: ``mean`` averages over positions after ``R``, to be compared with the feature vector of a vision
            transformer; None keeps the positions.
        channel_dim: dimension of the channels: 1, or -1 for tokens ``[B, N, C]``. With -1 also set ``in_channels``,
            because the Distiller reads it from dimension 1.

    Raises:
        ValueError: unknown ``mask``, ``reduce`` or ``channel_dim``; in the forward pass, a number of tokens that is
            not a square.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        ratio: float = 0.15,
        mask: str = 'channel',
        reduce: str | None = None,
        channel_dim: int = 1,
    ):
        super().__init__()
        if mask not in MASKS or reduce not in (None, 'mean') or channel_dim not in (1, -1):
            raise ValueError(
                f"BlurRestore takes mask={'|'.join(MASKS)}, reduce=None|'mean' and channel_dim=1|-1, "
                f'got {mask!r}, {reduce!r}, {channel_dim!r}'
            )
        self.ratio, self.mask, self.reduce, self.channel_dim = ratio, mask, reduce, channel_dim
        same = in_channels == out_channels
        self.align = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        self.restore = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[B, C, H, W]`` or tokens ``[B, C, N]``, ``[B, N, C]`` to the same at the teacher's width, or to
        ``[B, C']``.
        """
        tokens = x.dim() == 3
        if tokens:
            x = x.movedim(self.channel_dim, 1)
            side = math.isqrt(x.shape[2])
            if side**2 != x.shape[2]:
                raise ValueError(f'BlurRestore: {x.shape[2]} tokens do not form a square; tap a map [B, C, H, W]')
            x = x.unflatten(2, (side, side))
        x = self.restore(self.blur(self.align(x)))
        if self.reduce == 'mean':
            return x.flatten(2).mean(2)
        return x.flatten(2).movedim(1, self.channel_dim) if tokens else x

    def blur(self, x: Tensor) -> Tensor:
        """``x * M``; in eval mode ``x``."""
        if not self.training:
            return x
        B, C, H, W = x.shape
        shape = {'channel': (B, C, 1, 1), 'spatial': (B, 1, H, W), 'element': (B, C, H, W)}[self.mask]
        return x * (torch.rand(shape, device=x.device) >= self.ratio)
