"""QKFormer (Zhou et al., "QKFormer: Hierarchical Spiking Transformer using Q-K Attention", NeurIPS 2024)."""

from torch import Tensor, nn

from mmsnn.layers.attention import FlatLayers, SpikingSelfAttention, TokenQKAttention
from mmsnn.layers.transformer import Kit, SpikingMLP, TransformerBlock
from mmsnn.registry import MODELS

from .transformer import SpikingTransformer


class SpikingPatchEmbedding(FlatLayers):
    """SPEDS: a branch of convolutions with norms, poolings and neurons, and a 1x1 convolution as shortcut.

    Args:
        layers: the layers of the branch: name, input width, output width, and whether a 3x3 max pooling of stride 2
            comes before the neuron.
        kit: makes the layers.
        bits: bits per element in which the input is kept for the backward pass.
    """

    def __init__(self, layers: list[tuple[str, int, int, bool]], kit: Kit, bits: int):
        super().__init__()
        self.branch = [(name, pool) for name, _, _, pool in layers]
        for i, (name, c_in, c_out, _) in enumerate(layers):
            self.add_layer(name, kit.conv(c_in, c_out, 3, bits=kit.bits if i else bits), kit)
        c_in, c_out = layers[0][1], layers[-1][2]
        stride = 2 ** sum(pool for _, pool in self.branch)
        self.add_layer('proj_res_{}', kit.conv(c_in, c_out, stride=stride, bits=bits), kit)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Sums of two spikes from spikes or sums of spikes."""
        shortcut = self.run_layer('proj_res_{}', x)
        for name, pool in self.branch:
            x = self.run_layer(name, x, self.maxpool if pool else None)
        return x + shortcut


class SpikingStem(SpikingPatchEmbedding):
    """The first patch embedding, with one more layer, ``proj_{}``, before the branch and its shortcut.

    The backbone calls that layer, because images pass it before they are repeated over time.
    """

    def __init__(self, in_channels: int, layers: list[tuple[str, int, int, bool]], kit: Kit):
        super().__init__(layers, kit, kit.bits)
        self.add_layer('proj_{}', kit.conv(in_channels, layers[0][1], 3), kit)


@MODELS.register_module()
class QKFormer(SpikingTransformer):
    """QKFormer: three stages of C/4, C/2 and C channels; two use Q-K token attention, the last one self-attention.

    Takes the arguments of `SpikingTransformer`. The maps of the stages have strides 4, 8 and 16 (``10-...``) or 1, 2
    and 4 (CIFAR, ``4-384``), and hold means of integers over time.

    The CIFAR release has the name ``mlp1_conv`` for ``fc1_conv`` and, in stage 3, ``ssa`` for ``attn``.

    The release runs ``proj_lif`` of the first patch embedding over T*B steps instead of T, so that membrane potentials
    pass from one image of a batch to the next, and the prediction for an image depends on its neighbours. Here it does
    not; predictions equal those of the release for one image at a time. The published accuracies (78.80, 82.04, 84.22)
    were obtained with that dependence.
    """

    arch_zoo = {
        '10-384': dict(embed_dims=384, num_layers=(1, 2, 7), num_heads=6),
        '10-512': dict(embed_dims=512, num_layers=(1, 2, 7), num_heads=8),
        '10-768': dict(embed_dims=768, num_layers=(1, 2, 7), num_heads=12),
        '4-384': dict(embed_dims=384, num_layers=(1, 1, 2), num_heads=8, stem='cifar'),
    }
    arch_defaults = dict(mlp_ratio=4, stem='imagenet')

    def __init__(self, arch: str | dict, T: int = 4, neuron: dict | None = None, out_indices=(0, 1, 2), **kwargs):
        super().__init__(arch, T, neuron, out_indices=out_indices, **kwargs)

    def _build(self, arch: dict, kit: Kit, in_channels: int) -> list[int]:
        if arch['stem'] not in ('imagenet', 'cifar'):
            raise ValueError(f"backbone.arch: stem must be 'imagenet' or 'cifar', got {arch['stem']!r}")
        self.imagenet = arch['stem'] == 'imagenet'
        widths = [arch['embed_dims'] // 4, arch['embed_dims'] // 2, arch['embed_dims']]
        drop_paths = self._drop_paths(sum(arch['num_layers']))
        for i, (width, depth) in enumerate(zip(widths, arch['num_layers'])):
            half = width // 2
            if i:
                # The place of the pooling differs between the two releases.
                layers = [('proj3_{}', half, width, self.imagenet), ('proj4_{}', width, width, not self.imagenet)]
                embed = SpikingPatchEmbedding(layers, kit, kit.stream_bits)
            else:
                layers = [('proj1_{}', half, width, self.imagenet), ('proj2_{}', width, width, False)]
                embed = SpikingStem(in_channels, layers if self.imagenet else layers[:1], kit)
            self.add_module(f'patch_embed{i + 1}', embed)
            attention, name = (TokenQKAttention, 'tssa') if i < 2 else (SpikingSelfAttention, 'attn')
            blocks = nn.ModuleList(
                TransformerBlock(
                    attention(width, arch['num_heads'], kit),
                    SpikingMLP(width, int(width * arch['mlp_ratio']), kit),
                    drop_paths.pop(0),
                    name,
                )
                for _ in range(depth)
            )
            self.add_module(f'stage{i + 1}', blocks)
        return widths

    def _stem(self, x: Tensor) -> Tensor:
        first = self.patch_embed1
        pool = first.maxpool if self.imagenet else None
        return self._run(first, self.encoder.after_stem(x, first.proj_conv, first.proj_bn, first.proj_lif, pool))

    def _stages(self) -> list[list[nn.Module]]:
        return [
            [self.patch_embed1],
            [*self.stage1],
            [self.patch_embed2, *self.stage2],
            [self.patch_embed3, *self.stage3],
        ]
