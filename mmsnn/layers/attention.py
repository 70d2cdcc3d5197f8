"""Spiking attention, which needs no softmax. The argument ``kit`` is a `mmsnn.layers.transformer.Kit`."""

from torch import Tensor, nn


class FlatLayers(nn.Module):
    """A module of convolutions, norms and neurons under the flat names of the released spiking transformers.

    The layer ``'q_{}'`` consists of ``q_conv``, ``q_bn`` and ``q_lif``, whatever the norm and the neuron are.
    """

    def add_layer(self, name: str, conv: nn.Module, kit, neuron: bool = True) -> None:
        """Add a convolution, its norm and, where ``neuron`` is set, its neuron."""
        self.add_module(name.format('conv'), conv)
        self.add_module(name.format('bn'), kit.norm(conv.out_channels))
        if neuron:
            self.add_module(name.format('lif'), kit.neuron())

    def run_layer(self, name: str, x: Tensor, pool: nn.Module | None = None) -> Tensor:
        """Run the layer ``name``: convolution, norm, pooling (if given) and neuron."""
        # Modules are looked up by name, because the conversion to SyncBN replaces them.
        conv, norm, lif = (getattr(self, name.format(kind)) for kind in ('conv', 'bn', 'lif'))
        x = conv(x)
        return lif.after_norm(norm, x) if pool is None else lif(pool(norm(x)))


def check_heads(width: int, num_heads: int) -> None:
    """Raise ValueError unless ``num_heads`` divides ``width``."""
    if num_heads < 1 or width % num_heads:
        raise ValueError(f'backbone.num_heads={num_heads} does not divide the width {width}: choose a divisor')


def spiking_attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int, scale: float = 0.125) -> Tensor:
    """``scale * q k^T v`` for each head, summed over positions; no softmax, because products of spikes are counts.

    The cheaper product is computed first: ``k^T v``, which is linear in the number of positions, if there are more
    positions than channels per head. Both orders give the same result, up to the rounding of 16-bit types.

    Args:
        q, k, v: ``[T*B, C, H, W]``; the channels of a head are contiguous.
        num_heads: number of heads, a divisor of C.
        scale: factor; 1/8 in the releases, whatever the width of a head. It is applied to the first product, so that
            large maps do not overflow in float16.

    Returns:
        ``[T*B, C, H, W]``.
    """
    size = q.shape
    # [T*B, heads, C/heads, H*W]: channels first, so that nothing is transposed in memory
    q, k, v = (x.flatten(2).unflatten(1, (num_heads, -1)) for x in (q, k, v))
    if q.shape[2] <= q.shape[3]:
        out = (v @ k.transpose(2, 3) * scale) @ q
    else:
        out = v @ (k.transpose(2, 3) @ q * scale)
    return out.reshape(size)


class SpikingSelfAttention(FlatLayers):
    """Spiking self-attention (SSA, Zhou et al., "Spikformer", ICLR 2023) on ``[T*B, C, H, W]``.

    Three layers compute spikes q, k and v, `spiking_attention` combines them, and a neuron ``attn_lif`` and a
    projection follow. The linear layers of the releases (1-d convolutions of tokens) are 1x1 convolutions here.

    Args:
        width: number of channels.
        num_heads: number of heads.
        kit: makes the layers.
        scale: factor of `spiking_attention`.
        qkv_bias: whether the convolutions of q, k and v have biases.
        pre: whether the neuron ``proj_lif`` comes before the block (Spikingformer) instead of after it (Spikformer).

    Raises:
        ValueError: ``num_heads`` does not divide ``width``.
    """

    # `expand_levels` refuses this, because the mean of a product over micro-steps is not the product of the means.
    connect = 'MUL'

    def __init__(
        self,
        width: int,
        num_heads: int,
        kit,
        scale: float = 0.125,
        qkv_bias: bool = False,
        pre: bool = False,
    ):
        super().__init__()
        check_heads(width, num_heads)
        self.num_heads, self.scale, self.pre = num_heads, scale, pre
        bits = kit.bits if pre else kit.stream_bits
        for name in ('q_{}', 'k_{}', 'v_{}'):
            self.add_layer(name, kit.conv(width, width, bits=bits, bias=qkv_bias), kit)
        self.attn_lif = kit.attn_neuron()
        self.add_layer('proj_{}', kit.conv(width, width, bits=kit.bits, bias=True), kit)

    def forward(self, x: Tensor) -> Tensor:
        if self.pre:
            x = self.proj_lif(x)
        q, k, v = (self.run_layer(name, x) for name in ('q_{}', 'k_{}', 'v_{}'))
        x = self.attn_lif(spiking_attention(q, k, v, self.num_heads, self.scale))
        return self.proj_bn(self.proj_conv(x)) if self.pre else self.run_layer('proj_{}', x)


class TokenQKAttention(FlatLayers):
    """Q-K token attention (QKTA, Zhou et al., "QKFormer", NeurIPS 2024) on ``[T*B, C, H, W]``.

    At each position a neuron receives the sum of q over the channels of a head, and k passes where the neuron fires.
    The cost is linear in the numbers of positions and channels.

    Args:
        width: number of channels.
        num_heads: number of heads.
        kit: makes the layers.

    Raises:
        ValueError: ``num_heads`` does not divide ``width``.
    """

    connect = 'MUL'

    def __init__(self, width: int, num_heads: int, kit):
        super().__init__()
        check_heads(width, num_heads)
        self.num_heads = num_heads
        for name in ('q_{}', 'k_{}'):
            self.add_layer(name, kit.conv(width, width, bits=kit.stream_bits), kit)
        self.attn_lif = kit.attn_neuron()
        self.add_layer('proj_{}', kit.conv(width, width, bits=kit.bits, bias=True), kit)

    def forward(self, x: Tensor) -> Tensor:
        q, k = (self.run_layer(name, x).unflatten(1, (self.num_heads, -1)) for name in ('q_{}', 'k_{}'))
        gate = self.attn_lif(q.sum(2, keepdim=True))
        return self.run_layer('proj_{}', (gate * k).flatten(1, 2))
