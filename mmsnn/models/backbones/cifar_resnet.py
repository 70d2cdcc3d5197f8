"""CIFAR's ResNets of three stages (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, part 4.2)."""

import torch.nn.functional as F
from mmpretrain.models.backbones import ResNet_CIFAR
from mmpretrain.models.backbones.resnet import BasicBlock, ResLayer
from torch import Tensor, nn

from mmsnn.registry import MODELS

# 6n + 2 layers: n basic blocks in each of three stages
CIFAR_DEPTHS = {depth: (BasicBlock, ((depth - 2) // 6,) * 3) for depth in (20, 32, 44, 56, 110)}
SHORTCUTS = ('A', 'B')


def shape_of_depth(depth: int) -> dict:
    """Default arguments of a spiking ResNet of this depth."""
    if depth in CIFAR_DEPTHS:
        return dict(stem='cifar', base_channels=16, num_stages=3, strides=(1, 2, 2), shortcut='A')
    return dict(stem='imagenet', base_channels=64, num_stages=4, strides=(1, 2, 2, 2), shortcut='B')


class ShortcutA(nn.Module):
    """Shortcut without parameters (option A): takes every ``stride``-th pixel and pads channels of zeros on both sides.

    If the number of new channels is odd, the end gets one more. The output for spikes is spikes.

    Args:
        in_channels, out_channels: numbers of channels; ``out_channels`` is not smaller than ``in_channels``.
        stride: distance of the pixels.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride

    def extra_repr(self) -> str:
        return f'{self.in_channels}, {self.out_channels}, stride={self.stride}'

    def forward(self, x: Tensor) -> Tensor:
        new = self.out_channels - self.in_channels
        return F.pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, new // 2, new - new // 2))


def choose_shortcut(block: dict, shortcut: str) -> dict:
    """The arguments of a residual block, with ``downsample`` replaced by `ShortcutA` if ``shortcut`` is A."""
    if shortcut == 'A' and block.get('downsample') is not None:
        block = {**block, 'downsample': ShortcutA(block['in_channels'], block['out_channels'], block['stride'])}
    return block


@MODELS.register_module()
class CIFARResNet(ResNet_CIFAR):
    """ResNet-20, 32, 44, 56 or 110 for CIFAR: three stages of 16, 32 and 64 channels.

    Args:
        depth: 20, 32, 44, 56 or 110.
        shortcut: shortcut of blocks that change the width: ``A`` (`ShortcutA`, the paper's choice on CIFAR) or ``B``
            (a 1x1 convolution and a norm).
        kwargs: arguments of mmpretrain's ResNet_CIFAR.

    Raises:
        ValueError: another ``depth`` or ``shortcut``.
    """

    arch_settings = CIFAR_DEPTHS

    def __init__(
        self,
        depth: int,
        shortcut: str = 'A',
        base_channels: int = 16,
        stem_channels: int | None = None,
        num_stages: int = 3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
        **kwargs,
    ):
        if depth not in self.arch_settings:
            raise ValueError(f'backbone.depth must be one of {", ".join(map(str, CIFAR_DEPTHS))}, got {depth!r}')
        if shortcut not in SHORTCUTS:
            raise ValueError(f'backbone.shortcut must be one of {", ".join(SHORTCUTS)}, got {shortcut!r}')
        self.shortcut = shortcut
        super().__init__(
            depth,
            base_channels=base_channels,
            stem_channels=stem_channels or base_channels,
            num_stages=num_stages,
            strides=strides,
            dilations=dilations,
            out_indices=out_indices,
            **kwargs,
        )

    def make_res_layer(self, block, **kwargs) -> ResLayer:
        """One stage; called by the parent's constructor, stage after stage."""

        def with_shortcut(**block_kwargs):
            return block(**choose_shortcut(block_kwargs, self.shortcut))

        layer = ResLayer(block=with_shortcut, **kwargs)
        # A local function cannot be pickled.
        layer.block = block
        return layer
