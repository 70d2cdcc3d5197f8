"""Meta-SpikeFormer (Yao et al., "Spike-driven Transformer V2: Meta Spiking Neural Network Architecture Inspiring the
Design of Next-generation Neuromorphic Chips", ICLR 2024).
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmsnn.layers.attention import check_heads, spiking_attention
from mmsnn.layers.transformer import Kit, SpikingMLP, TransformerBlock
from mmsnn.ops.bn_lif import batch_statistics
from mmsnn.registry import MODELS

from .transformer import SpikingTransformer


class NormAndPad(nn.Module):
    """A batch norm whose output gets a border, one pixel wide, of the values that the norm gives for zeros.

    With the border, a 1x1 convolution, this norm and a 3x3 convolution equal one 3x3 convolution of zero-padded spikes.
    No gradient flows through the border. In training its values follow from the statistics of the batch; the release
    uses the running statistics, which differ between the two forwards of activation checkpointing.

    Args:
        norm: a batch norm with affine parameters and running statistics.

    Raises:
        ValueError: ``norm`` is another norm.
    """

    def __init__(self, norm: nn.Module):
        super().__init__()
        if not isinstance(norm, _BatchNorm) or not norm.affine or not norm.track_running_stats:
            raise ValueError(
                f'backbone.norm_cfg: MetaSpikeFormer needs batch norms (BN, SyncBN, mmsnn.TDBN), got {norm}'
            )
        self.bn = norm

    @torch.no_grad()
    def of_zeros(self, x: Tensor) -> Tensor:
        """The output ``[C]`` of the norm for zeros, if its input is ``x``."""
        norm = self.bn
        mean, var = norm.running_mean, norm.running_var
        if norm.training:
            group = None
            if isinstance(norm, nn.SyncBatchNorm) and dist.is_available() and dist.is_initialized():
                group = norm.process_group or dist.group.WORLD
                group = group if dist.get_world_size(group) > 1 else None
            mean, var, _ = batch_statistics(x.detach(), group)
        return norm.bias - mean * norm.weight * torch.rsqrt(var + norm.eps)

    def forward(self, x: Tensor) -> Tensor:
        """``[T*B, C, H, W]`` to ``[T*B, C, H+2, W+2]``."""
        border = self.of_zeros(x)
        x = self.bn(x)
        n, c, h, w = x.shape
        out = border.to(x.dtype).view(1, c, 1, 1).repeat(n, 1, h + 2, w + 2)
        out[:, :, 1:-1, 1:-1] = x
        return out


class RepConv(nn.Module):
    """A re-parameterised 3x3 convolution: 1x1 convolution, `NormAndPad`, depthwise 3x3 and 1x1 convolutions, norm.

    In deployment these merge into one 3x3 convolution.

    Args:
        width: number of channels.
        kit: makes the layers.
        bits: bits per element in which the input is kept for the backward pass.
    """

    def __init__(self, width: int, kit: Kit, bits: int):
        super().__init__()
        self.body = nn.Sequential(
            kit.conv(width, width, bits=bits),
            NormAndPad(kit.norm(width)),
            nn.Sequential(
                kit.conv(width, width, 3, groups=width, padding=0),
                kit.conv(width, width),
                kit.norm(width),
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class SpikeDrivenAttention(nn.Module):
    """SDSA-3: `spiking_attention` of the spikes q, k and v of three `RepConv`, and a `RepConv` as projection.

    Args:
        width: number of channels.
        num_heads: number of heads.
        kit: makes the layers.

    Raises:
        ValueError: ``num_heads`` does not divide ``width``.
    """

    # `expand_levels` refuses this; see `SpikingSelfAttention`.
    connect = 'MUL'

    def __init__(self, width: int, num_heads: int, kit: Kit):
        super().__init__()
        check_heads(width, num_heads)
        self.num_heads = num_heads
        self.head_lif = kit.neuron()
        for name in 'qkv':
            self.add_module(f'{name}_conv', nn.Sequential(RepConv(width, kit, kit.bits), kit.norm(width)))
            self.add_module(f'{name}_lif', kit.neuron())
        self.attn_lif = kit.attn_neuron()
        self.proj_conv = nn.Sequential(RepConv(width, kit, kit.bits), kit.norm(width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head_lif(x)
        q = self.q_lif.after_norm(self.q_conv, x)
        k = self.k_lif.after_norm(self.k_conv, x)
        v = self.v_lif.after_norm(self.v_conv, x)
        return self.proj_conv(self.attn_lif(spiking_attention(q, k, v, self.num_heads)))


class SepConv(nn.Module):
    """Neuron, 1x1 convolution, norm, neuron, depthwise 7x7 and 1x1 convolutions, norm; inner width ``2 * width``."""

    def __init__(self, width: int, kit: Kit):
        super().__init__()
        self.lif1 = kit.neuron()
        self.pwconv1 = kit.conv(width, 2 * width, bits=kit.bits)
        self.bn1 = kit.norm(2 * width)
        self.lif2 = kit.neuron()
        self.dwconv = kit.conv(2 * width, 2 * width, 7, bits=kit.bits, groups=2 * width)
        self.pwconv2 = kit.conv(2 * width, width)
        self.bn2 = kit.norm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lif2.after_norm(self.bn1, self.pwconv1(self.lif1(x)))
        return self.bn2(self.pwconv2(self.dwconv(x)))


class ConvBlock(nn.Module):
    """``x + SepConv(x)``, then another residual branch of two 3x3 convolutions, each after a neuron."""

    def __init__(self, width: int, hidden: int, kit: Kit):
        super().__init__()
        self.Conv = SepConv(width, kit)
        self.lif1 = kit.neuron()
        self.conv1 = kit.conv(width, hidden, 3, bits=kit.bits)
        self.bn1 = kit.norm(hidden)
        self.lif2 = kit.neuron()
        self.conv2 = kit.conv(hidden, width, 3, bits=kit.bits)
        self.bn2 = kit.norm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.Conv(x)
        inner = self.lif2.after_norm(self.bn1, self.conv1(self.lif1(x)))
        return x + self.bn2(self.conv2(inner))


class DownSampling(nn.Module):
    """Neuron, convolution and norm; the ``first`` one of the network has no neuron."""

    def __init__(self, c_in: int, c_out: int, kit: Kit, kernel: int = 3, stride: int = 2, first: bool = False):
        super().__init__()
        bits = 0 if first else kit.bits
        self.encode_conv = kit.conv(c_in, c_out, kernel, bits=bits, bias=True, stride=stride)
        self.encode_bn = kit.norm(c_out)
        self.encode_lif = nn.Identity() if first else kit.neuron()

    def forward(self, x: Tensor) -> Tensor:
        return self.encode_bn(self.encode_conv(self.encode_lif(x)))


@MODELS.register_module()
class MetaSpikeFormer(SpikingTransformer):
    """Meta-SpikeFormer (Spike-driven Transformer V2): stages of convolutions, then two stages of SDSA-3.

    The residual stream holds membrane potentials. Takes the arguments of `SpikingTransformer` and ``last_stride``. The
    stages of ``out_indices`` are

    ===== ==================== ====== ====================
    index modules              stride widths (15M)
    ===== ==================== ====== ====================
    0     ConvBlock1_1         2      32
    1     ConvBlock1_2         4      64
    2     ConvBlock2_1, 2_2    8      128
    3     block3               16     256
    4     block4               16     360
    ===== ==================== ====== ====================

    The default (1, 2, 3, 4) gives four maps for detectors and segmentors (the authors' detectors use these, their
    segmentors 0, 1, 2, 4); classifiers use 4. The maps are means of potentials over time. The release's classifier
    has one more neuron after the mean over positions: use `SpikingPooling` with ``readout='none'``.

    At the start of training, the attention can be silent on few tokens (images of 64 pixels); each of the three norms
    after it then multiplies the gradient by 1 / sqrt(eps). On photographs of 224 pixels this does not happen.

    Args:
        last_stride: stride of the convolution before block4: 1 as released, or 2 if necks and anchors expect strides 4,
            8, 16, 32. The number of parameters is the same.
    """

    arch_zoo = {
        '15M': dict(embed_dims=(64, 128, 256, 360), num_layers=(6, 2), num_heads=8),
        '31M': dict(embed_dims=(96, 192, 384, 480), num_layers=(6, 2), num_heads=8),
        '55M': dict(embed_dims=(128, 256, 512, 640), num_layers=(6, 2), num_heads=8),
    }
    arch_defaults = dict(mlp_ratio=4)
    spiking_stream = False

    def __init__(
        self,
        arch: str | dict,
        T: int = 4,
        neuron: dict | None = None,
        out_indices=(1, 2, 3, 4),
        last_stride: int = 1,
        **kwargs,
    ):
        if last_stride not in (1, 2):
            raise ValueError(f'backbone.last_stride must be 1 or 2, got {last_stride!r}')
        self.last_stride = last_stride
        super().__init__(arch, T, neuron, out_indices=out_indices, **kwargs)

    def _build(self, arch: dict, kit: Kit, in_channels: int) -> list[int]:
        dims, ratio = arch['embed_dims'], arch['mlp_ratio']
        widths = [dims[0] // 2, *dims]

        def conv_blocks(width):
            return nn.ModuleList([ConvBlock(width, int(width * ratio), kit)])

        def blocks(width, depth):
            return nn.ModuleList(
                TransformerBlock(
                    SpikeDrivenAttention(width, arch['num_heads'], kit),
                    SpikingMLP(width, int(width * ratio), kit, pre=True),
                    drop_paths.pop(0),
                )
                for _ in range(depth)
            )

        drop_paths = self._drop_paths(sum(arch['num_layers']))
        self.downsample1_1 = DownSampling(in_channels, widths[0], kit, kernel=7, first=True)
        self.ConvBlock1_1 = conv_blocks(widths[0])
        self.downsample1_2 = DownSampling(widths[0], widths[1], kit)
        self.ConvBlock1_2 = conv_blocks(widths[1])
        self.downsample2 = DownSampling(widths[1], widths[2], kit)
        self.ConvBlock2_1 = conv_blocks(widths[2])
        self.ConvBlock2_2 = conv_blocks(widths[2])
        self.downsample3 = DownSampling(widths[2], widths[3], kit)
        self.block3 = blocks(widths[3], arch['num_layers'][0])
        self.downsample4 = DownSampling(widths[3], widths[4], kit, stride=self.last_stride)
        self.block4 = blocks(widths[4], arch['num_layers'][1])
        return widths

    def _stem(self, x: Tensor) -> Tensor:
        first = self.downsample1_1
        return self.encoder.after_stem(x, first.encode_conv, first.encode_bn)

    def _stages(self) -> list[list[nn.Module]]:
        return [
            [self.downsample1_1],
            [*self.ConvBlock1_1],
            [self.downsample1_2, *self.ConvBlock1_2],
            [self.downsample2, *self.ConvBlock2_1, *self.ConvBlock2_2],
            [self.downsample3, *self.block3],
            [self.downsample4, *self.block4],
        ]
