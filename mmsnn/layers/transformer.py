"""Parts of spiking transformers: `Kit`, which makes their layers, stochastic depth, the MLP and the block."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from .attention import FlatLayers
from .conv import SpikeConv2d
from .time import TimeAware


@dataclass(frozen=True)
class Kit:
    """Makes the layers of a spiking transformer from the settings of its backbone.

    Args:
        neuron: makes a neuron.
        attn_neuron: makes the neuron after an attention, which has half the threshold in the releases.
        norm_cfg: config of the norms, on ``[T*B, C, H, W]``.
        bits: bits per element in which a convolution keeps input spikes for the backward pass: 1, or 8 for integers; 0
            keeps them as floats.
        stream_bits: the same for inputs that are sums of spikes: 0 or 8.
    """

    neuron: Callable[[], nn.Module]
    attn_neuron: Callable[[], nn.Module]
    norm_cfg: dict = field(default_factory=lambda: dict(type='BN'))
    bits: int = 0
    stream_bits: int = 0

    def conv(self, c_in: int, c_out: int, kernel: int = 1, bits: int = 0, bias: bool = False, **kwargs) -> nn.Conv2d:
        """A convolution that keeps the size of maps at stride 1, with ``bits`` per element of its stored input."""
        kind = partial(SpikeConv2d, bits=bits) if bits else nn.Conv2d
        return kind(c_in, c_out, kernel, **{'padding': kernel // 2, 'bias': bias, **kwargs})

    def norm(self, width: int) -> nn.Module:
        """A norm layer for ``width`` channels."""
        return build_norm_layer(self.norm_cfg, width)[1]


class DropPath(TimeAware, nn.Module):
    """Stochastic depth (Huang et al., ECCV 2016): in training a branch is dropped for whole images, at all time steps.

    Args:
        rate: probability with which an image drops the branch.
        T: time steps.
    """

    def __init__(self, rate: float, T: int):
        super().__init__()
        self.T = T
        self.rate = rate

    def extra_repr(self) -> str:
        return f'rate={self.rate:.3f}'

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = x.new_empty(len(x) // self.T, *[1] * (x.dim() - 1)).bernoulli_(keep) / keep
        return x * mask.repeat(self.T, *[1] * (x.dim() - 1))


class SpikingMLP(FlatLayers):
    """Two 1x1 convolutions with norms and neurons on ``[T*B, C, H, W]``.

    Args:
        width, hidden: number of channels outside and inside.
        kit: makes the layers.
        name: prefix of the names of the layers: ``fc`` (``fc1_conv`` ...) or ``mlp``.
        pre: whether neurons come before the convolutions instead of after their norms.
    """

    def __init__(self, width: int, hidden: int, kit: Kit, name: str = 'fc', pre: bool = False):
        super().__init__()
        self.names, self.pre = (f'{name}1_{{}}', f'{name}2_{{}}'), pre
        bits = kit.bits if pre else kit.stream_bits
        self.add_layer(self.names[0], kit.conv(width, hidden, bits=bits, bias=True), kit)
        self.add_layer(self.names[1], kit.conv(hidden, width, bits=kit.bits, bias=True), kit)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.names
        if not self.pre:
            return self.run_layer(second, self.run_layer(first, x))
        conv, norm, lif = ([getattr(self, n.format(kind)) for n in self.names] for kind in ('conv', 'bn', 'lif'))
        x = lif[1].after_norm(norm[0], conv[0](lif[0](x)))
        return norm[1](conv[1](x))


class TransformerBlock(nn.Module):
    """``x + attention(x)``, then the same with the MLP, on ``[T*B, C, H, W]``.

    Args:
        attention, mlp: the two branches.
        drop_path: stochastic depth, applied to both branches.
        name: name of the submodule ``attention``: ``attn`` or ``tssa``.
    """

    def __init__(self, attention: nn.Module, mlp: nn.Module, drop_path: nn.Module, name: str = 'attn'):
        super().__init__()
        self.name = name
        self.add_module(name, attention)
        self.mlp = mlp
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(getattr(self, self.name)(x))
        return x + self.drop_path(self.mlp(x))
