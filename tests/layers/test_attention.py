"""Attention of spikes: the formula, pair by pair; the cheaper order; SpikingJelly's layers."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmsnn.layers import SpikingSelfAttention, TokenQKAttention, spiking_attention, unfold
from mmsnn.layers.transformer import Kit
from mmsnn.neurons import build_neuron

DOUBLE = torch.float64
LIF = dict(type='LIF', tau=2.0, detach_reset=True)


def kit(T=2, **kwargs):
    return Kit(partial(build_neuron, LIF, T), partial(build_neuron, {**LIF, 'v_threshold': 0.5}, T), **kwargs)


def spikes(*shape, dtype=DOUBLE):
    return (torch.rand(*shape) < 0.3).to(dtype)


def pairs(q, k, v, heads, scale):
    """``scale * sum_m (q_n . k_m) v_m`` for each image, head and position n, number by number."""
    n, c, h, w = q.shape
    width = c // heads
    q, k, v = (x.reshape(n, heads, width, h * w).tolist() for x in (q, k, v))
    out = torch.zeros(n, heads, width, h * w, dtype=DOUBLE)
    for i in range(n):
        for g in range(heads):
            for a in range(h * w):
                for b in range(h * w):
                    product = sum(q[i][g][j][a] * k[i][g][j][b] for j in range(width))
                    for j in range(width):
                        out[i, g, j, a] += scale * product * v[i][g][j][b]
    return out.view(n, c, h, w)


class TestFormula:
    # more positions than channels of a head, fewer, and equally many
    SHAPES = [((2, 6, 3, 4), 2), ((2, 12, 2, 3), 1), ((1, 8, 2, 2), 2)]

    @pytest.mark.parametrize('shape, heads', SHAPES)
    def test_pair_by_pair(self, shape, heads):
        q, k, v = (torch.randn(shape, dtype=DOUBLE) for _ in range(3))
        torch.testing.assert_close(spiking_attention(q, k, v, heads, 0.3), pairs(q, k, v, heads, 0.3))
        q, k, v = (spikes(*shape) for _ in range(3))
        expected = pairs(q, k, v, heads, 0.125)
        assert expected.any() and torch.equal(spiking_attention(q, k, v, heads), expected)

    @pytest.mark.parametrize('shape, heads', SHAPES)
    def test_the_cheaper_order(self, shape, heads):
        n, c, h, w = shape
        q, k, v = (spikes(*shape) for _ in range(3))
        counter = FlopCounterMode(display=False)
        with counter:
            spiking_attention(q, k, v, heads)
        width, positions = c // heads, h * w
        assert counter.get_total_flops() == 2 * 2 * n * heads * width * positions * min(width, positions)

    def test_counts_are_exact_in_float32(self):
        """In whichever order they are added up."""
        q, k, v = (spikes(2, 64, 30, 20, dtype=torch.float32) for _ in range(3))
        flat = [x.unflatten(1, (2, 32)).flatten(3) for x in (q, k, v)]
        expected = torch.einsum('nhcl,nhcm,nhdm->nhdl', *(x.double() for x in flat)) / 8
        assert torch.equal(spiking_attention(q, k, v, 2).double(), expected.reshape(q.shape))

    def test_large_maps_in_float16(self):
        """102400 pairs; 65504 is the largest number."""
        ones = torch.ones(1, 64, 40, 40, dtype=torch.float16)
        assert (spiking_attention(ones, ones, ones, 1) == 64 * 1600 / 8).all()

    def test_memory_formats(self):
        q, k, v = (spikes(2, 8, 5, 3) for _ in range(3))
        swapped = (x.to(memory_format=torch.channels_last) for x in (q, k, v))
        assert torch.equal(spiking_attention(*swapped, 2), spiking_attention(q, k, v, 2))

    def test_gradients(self):
        inputs = [torch.randn(1, 4, 2, 3, dtype=DOUBLE, requires_grad=True) for _ in range(3)]
        assert torch.autograd.gradcheck(lambda q, k, v: spiking_attention(q, k, v, 2), inputs)


@pytest.mark.parametrize('layer', [SpikingSelfAttention, TokenQKAttention])
class TestLayers:
    def make(self, layer, lively, **kwargs):
        kwargs = {} if layer is TokenQKAttention else kwargs
        model = layer(16, 4, kit(), **kwargs)
        return lively(model, torch.randn(6, 16, 5, 4)).eval().double()

    def test_spiking_jelly(self, layer, lively):
        """The same weights, the same spikes; theirs has q, k and v in one convolution and no bias behind them."""
        attention = pytest.importorskip('spikingjelly.activation_based.layer.attention')
        ours = self.make(layer, lively)
        nn.init.zeros_(ours.proj_conv.bias)
        names = 'qkv' if layer is SpikingSelfAttention else 'qk'
        theirs = getattr(attention, layer.__name__)(16, 4)
        state = {}
        for i, kind in enumerate(('conv', 'bn')):
            for key in getattr(ours, f'q_{kind}').state_dict():
                parts = [getattr(ours, f'{n}_{kind}').state_dict()[key] for n in names]
                state[f'{names}_conv_bn.{i}.{key}'] = torch.cat(parts) if parts[0].dim() else parts[0]
            for key, value in getattr(ours, f'proj_{kind}').state_dict().items():
                state[f'proj_conv_bn.{i}.{key}'] = value
        wanted = theirs.state_dict()
        assert set(state) - set(wanted) == {'proj_conv_bn.0.bias'}
        theirs.load_state_dict({k: state[k].reshape(v.shape) for k, v in wanted.items()})
        x = spikes(6, 16, 5, 4) + spikes(6, 16, 5, 4)
        expected = theirs.double().eval()(unfold(x, 2).flatten(3)).reshape(6, 16, 5, 4)
        assert 0.1 < expected.mean() < 0.9
        assert torch.equal(ours(x), expected)

    def test_heads_that_do_not_divide(self, layer):
        for heads in (3, 0):
            with pytest.raises(ValueError, match=f'backbone.num_heads={heads} does not divide the width 16'):
                layer(16, heads, kit())

    def test_images_and_heads_are_apart(self, layer, lively):
        """What changes in one image changes nothing in the others."""
        ours = self.make(layer, lively)
        x = spikes(6, 16, 5, 4)
        y = x.clone()
        y[[1, 4]] = 1 - y[[1, 4]]
        same = [torch.equal(a, b) for a, b in zip(ours(x), ours(y))]
        assert same == [True, False, True] * 2


def test_neuron_in_front(lively):
    """Spikingformer's: potentials in, potentials out."""
    ours = lively(SpikingSelfAttention(16, 4, kit(), pre=True), torch.randn(6, 16, 5, 4)).eval()
    x = torch.randn(6, 16, 5, 4) * 2
    behind = SpikingSelfAttention(16, 4, kit()).eval()
    behind.load_state_dict(ours.state_dict())
    expected = []
    behind.proj_bn.register_forward_hook(lambda module, inputs, out: expected.append(out))
    behind(build_neuron(LIF, 2)(x))
    assert torch.equal(ours(x), expected[0]) and not torch.equal(expected[0], expected[0].round())


def test_scale(lively):
    ours = SpikingSelfAttention(16, 4, kit(), scale=1e-6)
    seen = []
    ours.attn_lif.register_forward_hook(lambda module, inputs, out: seen.append((inputs[0], out)))
    lively(ours, torch.randn(6, 16, 5, 4))
    assert seen[0][0].any() and not seen[0][1].any()
