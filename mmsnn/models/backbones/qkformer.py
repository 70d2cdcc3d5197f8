"""QKFormer (Zhou et al., "QKFormer: Hierarchical Spiking Transformer using Q-K Attention", NeurIPS 2024)."""

from torch import Tensor, nn

from mmsnn.layers.attention import FlatLayers, SpikingSelfAttention, TokenQKAttention
from mmsnn.layers.transformer import Kit, SpikingMLP, TransformerBlock
from mmsnn.registry import MODELS

from .transformer import SpikingTransformer


class SpikingPatchEmbedding(FlatLayers):
    """SPEDS: convolutions with norms, poolings and neurons, and a 1x1 convolution around them as shortcut.

    Args:
        sites: name, input and output width, and whether a 3x3 max pooling of stride 2 stands in front of the neuron.
        kit: makes the layers.
        bits: that hold the input.
    """

    def __init__(self, sites: list[tuple[str, int, int, bool]], kit: Kit, bits: int):
        super().__init__()
        self.branch = [(name, pool) for name, _, _, pool in sites]
        for i, (name, c_in, c_out, _) in enumerate(sites):
            self.add_layer(name, kit.conv(c_in, c_out, 3, bits=kit.bits if i else bits), kit)
        c_in, c_out = sites[0][1], sites[-1][2]
        stride = 2 ** sum(pool for _, pool in self.branch)
        self.add_layer('proj_res_{}', kit.conv(c_in, c_out, stride=stride, bits=bits), kit)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Spikes, or sums of them, to sums of two spikes."""
        shortcut = self.run_layer('proj_res_{}', x)
        for name, pool in self.branch:
            x = self.run_layer(name, x, self.maxpool if pool else None)
        return x + shortcut


class SpikingStem(SpikingPatchEmbedding):
    """The first patch embedding, with one more site, ``proj_{}``, in front of the shortcut.

    That site is called from outside, because images pass it before time begins.
    """

    def __init__(self, in_channels: int, sites: list[tuple[str, int, int, bool]], kit: Kit):
        super().__init__(sites, kit, kit.bits)
        self.add_layer('proj_{}', kit.conv(in_channels, sites[0][1], 3), kit)


@MODELS.register_module()
class QKFormer(SpikingTransformer):
    """QKFormer: three stages of C/4, C/2 and C channels, two of Q-K token attention, the last of self-attention.

    Arguments of `SpikingTransformer`. The maps of the stages have strides 4, 8 and 16 (``10-...``) or 1, 2 and 4
    (CIFAR, ``4-384``), and hold means over time of integers.

    The CIFAR release says ``mlp1_conv`` for ``fc1_conv`` and, in stage 3, ``ssa`` for ``attn``.

    The release runs ``proj_lif`` of the first patch embedding over T*B steps instead of T, so that the membrane passes
    from one image of a batch to the next, and an image's answer depends on its neighbours. Here it does not: answers
    are the release's for one image at a time. Its published figures (78.80, 82.04, 84.22) were obtained with the leak.
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
                # where the pooling stands differs between the two releases
                sites = [('proj3_{}', half, width, self.imagenet), ('proj4_{}', width, width, not self.imagenet)]
                embed = SpikingPatchEmbedding(sites, kit, kit.stream_bits)
            else:
                sites = [('proj1_{}', half, width, self.imagenet), ('proj2_{}', width, width, False)]
                embed = SpikingStem(in_channels, sites if self.imagenet else sites[:1], kit)
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
