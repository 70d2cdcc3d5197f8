"""ResNet-19 for CIFAR (Zheng et al., "Going Deeper With Directly-Trained Larger Spiking Neural Networks", AAAI 2021).

The network has three stages of 3, 3 and 2 basic blocks with 128, 256 and 512 channels, average pooling and two linear
layers, 512-256-K, with a neuron between them. The stem has 128 channels in the paper and 64 in the code that later
papers share (TET, SAKD). The 12.63 M parameters that the literature quotes belong to 64; with 128 there are 12.70 M.
"""

from mmpretrain.models.backbones.resnet import BasicBlock
from mmpretrain.models.backbones.resnet_cifar import ResNet_CIFAR

from mmsnn.registry import MODELS

from .resnet import SpikingResNet

ARCH = {19: (BasicBlock, (3, 3, 2))}


def _shape(base_channels: int, stem_channels: int | None) -> dict:
    return dict(
        base_channels=base_channels,
        stem_channels=stem_channels or base_channels // 2,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
    )


@MODELS.register_module()
class ResNet19(ResNet_CIFAR):
    """The ANN: mmpretrain's ResNet_CIFAR with depth 19, which mmpretrain does not offer.

    Args:
        depth: 19.
        base_channels: width of the first stage.
        stem_channels: width of the stem; None means half of ``base_channels``. The paper has 128.
        out_indices: stages whose outputs are returned, 0 to 2.
        kwargs: arguments of ``mmpretrain.ResNet_CIFAR``.
    """

    arch_settings = ARCH

    def __init__(
        self, depth: int = 19, base_channels: int = 128, stem_channels: int | None = None, out_indices=(2,), **kwargs
    ):
        super().__init__(depth, out_indices=out_indices, **{**_shape(base_channels, stem_channels), **kwargs})


@MODELS.register_module()
class SpikingResNet19(SpikingResNet):
    """The spiking twin of `ResNet19`, with the same parameter names.

    Args:
        depth: 19.
        T, neuron: as in `SpikingResNet`.
        base_channels, stem_channels, out_indices: as in `ResNet19`.
        kwargs: arguments of `SpikingResNet`; ``stem`` is ``cifar`` by default.
    """

    arch_settings = ARCH

    def __init__(
        self,
        depth: int = 19,
        T: int = 4,
        neuron: dict | None = None,
        base_channels: int = 128,
        stem_channels: int | None = None,
        out_indices=(0, 1, 2),
        stem: str = 'cifar',
        **kwargs,
    ):
        shape = {**_shape(base_channels, stem_channels), **kwargs}
        super().__init__(depth, T, neuron, stem=stem, out_indices=out_indices, **shape)
