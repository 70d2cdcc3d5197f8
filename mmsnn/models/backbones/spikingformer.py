"""Spikingformer (Zhou et al., "Spikingformer: Spike-driven Residual Learning for Transformer-based Spiking Neural
Network", 2023).
"""

from torch import Tensor, nn

from mmsnn.layers.attention import FlatLayers, SpikingSelfAttention
from mmsnn.layers.transformer import Kit, SpikingMLP, TransformerBlock
from mmsnn.registry import MODELS

from .spikformer import CIFAR, IMAGENET
from .transformer import SpikingTransformer


class SpikingTokenizer(FlatLayers):
    """A convolution and norm, then four times neuron, pooling, convolution and norm.

    The backbone calls the layers before the first pooling, because images pass them before they are repeated over time.

    Args:
        in_channels, width: numbers of channels of the images and of the output.
        kit: makes the layers.
        pool: which of the four later convolutions have a 3x3 max pooling of stride 2 before them.
        cml: whether the pooling comes before the neuron instead of after it.
    """

    def __init__(self, in_channels: int, width: int, kit: Kit, pool: tuple[bool, ...], cml: bool):
        super().__init__()
        self.pool, self.cml = pool, cml
        widths = [in_channels, width // 8, width // 4, width // 2, width, width]
        self.add_layer('proj_{}', kit.conv(widths[0], widths[1], 3), kit, neuron=False)
        for i in range(1, 5):
            self.add_layer(f'proj{i}_{{}}', kit.conv(widths[i], widths[i + 1], 3, bits=kit.bits), kit)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

    def pool_before(self, i: int) -> nn.Module | None:
        """The pooling before the ``i``-th neuron, or None."""
        return self.maxpool if self.cml and self.pool[i - 1] else None

    def forward(self, x: Tensor) -> Tensor:
        """Membrane potentials, from the spikes of ``proj1_lif``."""
        for i in range(1, 5):
            if self.pool[i - 1] and not self.cml:
                x = self.maxpool(x)
            x, norm = getattr(self, f'proj{i}_conv')(x), getattr(self, f'proj{i}_bn')
            if i == 4:
                return norm(x)
            lif, pool = getattr(self, f'proj{i + 1}_lif'), self.pool_before(i + 1)
            x = lif.after_norm(norm, x) if pool is None else lif(pool(norm(x)))


@MODELS.register_module()
class Spikingformer(SpikingTransformer):
    """Spikingformer: the residual stream holds membrane potentials, and a neuron comes before each convolution.

    Takes the arguments of `SpikingTransformer` and ``cml``. The stages of ``out_indices`` and ``frozen_stages`` are the
    blocks; all maps have the stride of the patches, 16 (``8-...``) or 4 (CIFAR), and hold means of potentials over
    time.

    The CIFAR release calls the layers of the tokenizer ``block0_conv`` instead of ``proj_conv``, ``block1_conv``
    instead of ``proj1_conv``, and so on. The ImageNet release has 8 heads. The CIFAR release has 12 (CIFAR-10) or 8
    (CIFAR-100) for 384 channels; the number for 256 channels is our choice.

    Args:
        cml: whether the patch embedding pools before the neuron (ConvBN-MaxPooling-LIF; Zhou et al., "Enhancing the
            Performance of Transformer-based Spiking Neural Networks by SNN-optimized Downsampling with Precise Gradient
            Backpropagation", 2023), as in BKD's students. The number of parameters is the same.
    """

    arch_zoo = {
        '8-384': dict(embed_dims=384, num_layers=8, num_heads=8),
        '8-512': dict(embed_dims=512, num_layers=8, num_heads=8),
        '8-768': dict(embed_dims=768, num_layers=8, num_heads=8),
        '4-256': dict(embed_dims=256, num_layers=4, num_heads=8, pool=CIFAR),
        '2-384': dict(embed_dims=384, num_layers=2, num_heads=12, pool=CIFAR),
        '4-384': dict(embed_dims=384, num_layers=4, num_heads=12, pool=CIFAR),
    }
    arch_defaults = dict(mlp_ratio=4, pool=IMAGENET)
    spiking_stream = False

    def __init__(self, arch: str | dict, T: int = 4, neuron: dict | None = None, cml: bool = False, **kwargs):
        self.cml = cml
        super().__init__(arch, T, neuron, **kwargs)

    def _build(self, arch: dict, kit: Kit, in_channels: int) -> list[int]:
        width, depth = arch['embed_dims'], arch['num_layers']
        self.patch_embed = SpikingTokenizer(in_channels, width, kit, arch['pool'], self.cml)
        self.block = nn.ModuleList(
            TransformerBlock(
                SpikingSelfAttention(width, arch['num_heads'], kit, pre=True),
                SpikingMLP(width, int(width * arch['mlp_ratio']), kit, name='mlp', pre=True),
                drop_path,
            )
            for drop_path in self._drop_paths(depth)
        )
        return [width] * depth

    def _stem(self, x: Tensor) -> Tensor:
        first = self.patch_embed
        x = self.encoder.after_stem(x, first.proj_conv, first.proj_bn, first.proj1_lif, first.pool_before(1))
        return self._run(first, x)

    def _stages(self) -> list[list[nn.Module]]:
        return [[self.patch_embed], *([block] for block in self.block)]
