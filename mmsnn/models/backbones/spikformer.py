"""Spikformer (Zhou et al., "Spikformer: When Spiking Neural Network Meets Transformer", ICLR 2023)."""

from torch import Tensor, nn

from mmsnn.layers.attention import FlatLayers, SpikingSelfAttention
from mmsnn.layers.transformer import Kit, SpikingMLP, TransformerBlock
from mmsnn.registry import MODELS

from .transformer import SpikingTransformer

# Which of the four convolutions of the patch embedding are pooled: the stride is 16 on ImageNet and 4 on CIFAR.
IMAGENET = (True, True, True, True)
CIFAR = (False, False, True, True)


class SpikingPatchSplitting(FlatLayers):
    """SPS: four convolutions with norms, neurons and poolings, then a convolution as relative position embedding.

    The backbone calls the first layer, ``proj_{}`` (with ``cml`` its pooling as well), because images pass it before
    they are repeated over time.

    Args:
        in_channels, width: numbers of channels of the images and of the output.
        kit: makes the layers.
        pool: which of the four layers have a 3x3 max pooling of stride 2.
        cml: whether the pooling comes before the neuron instead of after it.
    """

    names = ('proj_{}', 'proj_{}1', 'proj_{}2', 'proj_{}3')

    def __init__(self, in_channels: int, width: int, kit: Kit, pool: tuple[bool, ...], cml: bool):
        super().__init__()
        self.pool, self.cml = pool, cml
        widths = [in_channels, width // 8, width // 4, width // 2, width]
        for i, name in enumerate(self.names):
            self.add_layer(name, kit.conv(widths[i], widths[i + 1], 3, bits=kit.bits if i else 0), kit)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.add_layer('rpe_{}', kit.conv(width, width, 3, bits=kit.bits), kit)

    def forward(self, x: Tensor) -> Tensor:
        """Sums of two spikes, from the spikes of the first layer."""
        x = self.maxpool(x) if self.pool[0] and not self.cml else x
        for name, pool in zip(self.names[1:], self.pool[1:]):
            x = self.run_layer(name, x, self.maxpool if pool and self.cml else None)
            x = self.maxpool(x) if pool and not self.cml else x
        return x + self.run_layer('rpe_{}', x)


@MODELS.register_module()
class Spikformer(SpikingTransformer):
    """Spikformer: spiking patch splitting, then blocks of spiking self-attention and MLP with residual sums of spikes.

    Takes the arguments of `SpikingTransformer` and ``cml``. The stages of ``out_indices`` and ``frozen_stages`` are the
    blocks; all maps have the stride of the patches, 16 (``8-...``) or 4 (CIFAR), and hold means of integers over time.

    The CIFAR release calls its linear layers ``q_linear`` and ``fc1_linear`` instead of ``q_conv`` and ``fc1_conv``.
    The number of heads is published only for 384 channels on CIFAR and for 512 on ImageNet; the other sizes here have
    heads of the same width.

    An ``arch`` given as a dict may set ``scale``, the factor of the attention: 1/8 by default, 1/4 in the release for
    CIFAR10-DVS.

    Args:
        cml: whether the patch embedding pools before the neuron (ConvBN-MaxPooling-LIF), as in `Spikingformer`; the
            paper and the release pool spikes. SpikingJelly's Spikformer has ``cml=True`` and no biases of q, k and v
            (``qkv_bias=False``).
    """

    arch_zoo = {
        '8-384': dict(embed_dims=384, num_layers=8, num_heads=6),
        '8-512': dict(embed_dims=512, num_layers=8, num_heads=8),
        '8-768': dict(embed_dims=768, num_layers=8, num_heads=12),
        '4-256': dict(embed_dims=256, num_layers=4, num_heads=8, pool=CIFAR, qkv_bias=True),
        '2-384': dict(embed_dims=384, num_layers=2, num_heads=12, pool=CIFAR, qkv_bias=True),
        '4-384': dict(embed_dims=384, num_layers=4, num_heads=12, pool=CIFAR, qkv_bias=True),
    }
    arch_defaults = dict(mlp_ratio=4, pool=IMAGENET, qkv_bias=False, scale=0.125)

    def __init__(self, arch: str | dict, T: int = 4, neuron: dict | None = None, cml: bool = False, **kwargs):
        self.cml = cml
        super().__init__(arch, T, neuron, **kwargs)

    def _build(self, arch: dict, kit: Kit, in_channels: int) -> list[int]:
        width, depth = arch['embed_dims'], arch['num_layers']
        self.patch_embed = SpikingPatchSplitting(in_channels, width, kit, arch['pool'], self.cml)
        self.block = nn.ModuleList(
            TransformerBlock(
                SpikingSelfAttention(width, arch['num_heads'], kit, arch['scale'], arch['qkv_bias']),
                SpikingMLP(width, int(width * arch['mlp_ratio']), kit),
                drop_path,
            )
            for drop_path in self._drop_paths(depth)
        )
        return [width] * depth

    def _stem(self, x: Tensor) -> Tensor:
        first = self.patch_embed
        pool = first.maxpool if first.pool[0] and first.cml else None
        return self._run(first, self.encoder.after_stem(x, first.proj_conv, first.proj_bn, first.proj_lif, pool))

    def _stages(self) -> list[list[nn.Module]]:
        return [[self.patch_embed], *([block] for block in self.block)]
