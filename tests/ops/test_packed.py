"""Convolutions that keep their spikes packed: equal to plain ones bit for bit, from less memory."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmsnn.layers import SpikeConv2d
from mmsnn.ops.extension import compiled
from mmsnn.ops.packed_conv import packed_conv2d

FORMATS = [torch.contiguous_format, torch.channels_last]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def spikes(*shape, bits=1, dtype=torch.float32, memory_format=torch.contiguous_format):
    torch.manual_seed(0)
    x = torch.rand(shape).round() if bits == 1 else torch.randint(0, 256, shape)
    return x.to(dtype).contiguous(memory_format=memory_format)


class TestPack:
    @pytest.mark.parametrize('bits', [1, 8])
    @pytest.mark.parametrize('dtype', DTYPES)
    @pytest.mark.parametrize('size', [0, 1, 7, 8, 9, 127, 128, 129, 3001, 70000])
    def test_round_trip(self, bits, dtype, size):
        x = spikes(size, bits=bits, dtype=dtype)
        packed = torch.ops.mmsnn.pack(x, bits)
        assert packed.dtype == torch.uint8 and packed.numel() == (-(-size // 8) if bits == 1 else size)
        assert torch.equal(torch.ops.mmsnn.unpack(packed, x.shape, x.stride(), dtype, bits), x)

    def test_lowest_bit_first(self):
        x = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 0, 0, 1])
        assert torch.ops.mmsnn.pack(x, 1).tolist() == [9, 2]

    def test_memory_order_is_kept(self):
        x = spikes(3, 5, 4, 7, memory_format=torch.channels_last)
        again = torch.ops.mmsnn.unpack(torch.ops.mmsnn.pack(x, 1), x.shape, x.stride(), x.dtype, 1)
        assert torch.equal(again, x) and again.stride() == x.stride()

    @pytest.mark.parametrize('value', [0.5, 2, -1, float('nan'), float('inf')])
    @pytest.mark.parametrize('place', [0, 500, -1])
    def test_other_values_are_refused(self, value, place):
        x = torch.zeros(100_003)
        x[place] = value
        with pytest.raises(ValueError, match='other than 0 and 1.*packed_spikes=False'):
            torch.ops.mmsnn.pack(x, 1)

    @pytest.mark.parametrize('value', [0.5, 256, -1, float('nan')])
    def test_other_values_than_bytes_are_refused(self, value):
        with pytest.raises(ValueError, match='integers 0 to 255'):
            torch.ops.mmsnn.pack(torch.tensor([0.0, value]), 8)


class TestConv:
    @pytest.mark.parametrize('bits', [1, 8])
    @pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
    @pytest.mark.parametrize('memory_format', FORMATS)
    @pytest.mark.parametrize(
        'geometry', [dict(padding=(1, 1)), dict(stride=(2, 1)), dict(dilation=(2, 2)), dict(groups=2)]
    )
    def test_equals_plain(self, bits, dtype, memory_format, geometry):
        x = spikes(3, 4, 9, 8, bits=bits, dtype=dtype, memory_format=memory_format)
        weight = torch.randn(6, 4 // geometry.get('groups', 1), 3, 3, dtype=dtype)
        bias = torch.randn(6, dtype=dtype)
        results = []
        for conv in (F.conv2d, lambda *a, **k: packed_conv2d(*a, **k, bits=bits)):
            inputs = [t.clone().requires_grad_() for t in (x, weight, bias)]
            out = conv(*inputs, **geometry)
            (out * out.detach().cos()).sum().backward()
            results.append([out, *(t.grad for t in inputs)])
        for plain, packed in zip(*results):
            assert torch.equal(plain, packed)

    @pytest.mark.parametrize('order', [(0, 1, 3, 2), (1, 0, 2, 3), (3, 2, 1, 0)])
    def test_other_orders_of_memory(self, order):
        x = spikes(*(torch.tensor([4, 4, 6, 6])[list(order)].tolist())).permute(*torch.tensor(order).argsort().tolist())
        weight = torch.randn(3, 4, 3, 3, requires_grad=True)
        grads = [torch.autograd.grad(conv(x, weight).cos().sum(), weight)[0] for conv in (F.conv2d, packed_conv2d)]
        assert torch.equal(*grads)

    def test_keeps_bits_only(self):
        x = spikes(4, 16, 32, 32).requires_grad_()
        weight = torch.randn(8, 16, 3, 3, requires_grad=True)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
            packed_conv2d(x, weight, padding=(1, 1))
        assert sum(t.numel() * t.element_size() for t in kept if t is not weight) == x.numel() // 8

    def test_keeps_nothing_for_frozen_weights(self):
        x = spikes(2, 4, 8, 8).requires_grad_()
        weight = torch.randn(3, 4, 3, 3)
        out = packed_conv2d(x + 0.5 - 0.5, weight)
        out.sum().backward()
        expected = torch.autograd.grad(F.conv2d(x, weight).sum(), x)[0]
        assert torch.equal(x.grad, expected)

    def test_autocast(self):
        x, weight = spikes(2, 4, 8, 8).requires_grad_(), torch.randn(3, 4, 3, 3, requires_grad=True)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            out, plain = packed_conv2d(x, weight), F.conv2d(x, weight)
        assert out.dtype == plain.dtype == torch.bfloat16 and torch.equal(out, plain)
        packed_grad, grad = (torch.autograd.grad(o.float().sum(), weight)[0] for o in (out, plain))
        assert torch.equal(packed_grad, grad)

    def test_compiles(self):
        x, weight = spikes(2, 4, 8, 8), torch.randn(3, 4, 3, 3, requires_grad=True)
        out = torch.compile(packed_conv2d, backend='aot_eager', fullgraph=True)(x, weight)
        (grad,) = torch.autograd.grad(out.sum(), weight)
        assert torch.equal(grad, torch.autograd.grad(F.conv2d(x, weight).sum(), weight)[0])

    def test_analog_input_is_refused(self):
        with pytest.raises(ValueError, match='packed_spikes=False'):
            packed_conv2d(torch.rand(1, 2, 5, 5), torch.randn(3, 2, 3, 3, requires_grad=True))

    def test_bits(self):
        with pytest.raises(ValueError, match='bits must be 1'):
            packed_conv2d(torch.ones(1, 2, 5, 5), torch.randn(3, 2, 3, 3), bits=2)

    @pytest.mark.parametrize('loss', [lambda y: y.sum(), lambda y: y.square().sum()], ids=['constant', 'not'])
    def test_second_derivatives_are_refused(self, loss):
        """Also where the gradient of the output is constant, and the layer's part alone would be missing."""
        x, weight = spikes(1, 2, 5, 5).requires_grad_(), torch.randn(3, 2, 3, 3, requires_grad=True)
        with pytest.raises(NotImplementedError, match='packed_spikes=False'):
            torch.autograd.grad(loss(packed_conv2d(x, weight)), x, create_graph=True)
        assert torch.autograd.grad(loss(packed_conv2d(x, weight)), x)[0].any()


def on_events(monkeypatch):
    """A list that gets an entry for each convolution that runs on events."""
    seen, op = [], torch.ops.mmsnn.event_conv
    monkeypatch.setattr(torch.ops.mmsnn, 'event_conv', lambda *a: (seen.append(a), op(*a))[1])
    return seen


def sparse(*shape, density=0.1, bits=1):
    torch.manual_seed(0)
    return (torch.rand(shape) < density) * (torch.ones(shape) if bits == 1 else torch.randint(1, 256, shape).float())


needs_kernels = pytest.mark.skipif(compiled() is None, reason='no compiled kernels')


class TestEvents:
    @needs_kernels
    @pytest.mark.parametrize('bits', [1, 8])
    @pytest.mark.parametrize('memory_format', FORMATS)
    @pytest.mark.parametrize(
        'geometry', [dict(padding=(1, 1)), dict(stride=(2, 1)), dict(dilation=(2, 2), padding=(2, 0)), dict(groups=2)]
    )
    @pytest.mark.parametrize('wanted', [(1, 1, 1), (0, 1, 0), (1, 1, 0), (0, 1, 1)])
    def test_equals_plain(self, monkeypatch, bits, memory_format, geometry, wanted):
        x = sparse(3, 64, 9, 8, bits=bits).contiguous(memory_format=memory_format)
        weight, bias = torch.randn(96, 64 // geometry.get('groups', 1), 3, 3), torch.randn(96)
        seen, results = on_events(monkeypatch), []
        for conv in (F.conv2d, lambda *a, **k: packed_conv2d(*a, **k, bits=bits, events=True)):
            inputs = [t.clone().requires_grad_(bool(w)) for t, w in zip((x, weight, bias), wanted)]
            out = conv(*inputs, **geometry)
            # sums of up to 255 spikes are too large for a cosine of the output
            (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
            results.append([out, *(t.grad for t in inputs if t.requires_grad)])
        assert len(seen) == 1
        for plain, events in zip(*results):
            assert (plain - events).abs().max() <= 1e-5 * plain.abs().max()

    @pytest.mark.parametrize(
        'why, x, weight',
        [
            ('dense', sparse(2, 32, 8, 8, density=0.3), torch.randn(32, 32, 3, 3)),
            ('few inputs', sparse(2, 16, 8, 8), torch.randn(32, 16, 3, 3)),
            ('few outputs', sparse(2, 32, 8, 8), torch.randn(16, 32, 3, 3)),
            ('small kernel', sparse(2, 32, 8, 8), torch.randn(32, 32, 1, 1)),
            ('float64', sparse(2, 32, 8, 8).double(), torch.randn(32, 32, 3, 3).double()),
        ],
    )
    def test_stays_dense(self, monkeypatch, why, x, weight):
        seen = on_events(monkeypatch)
        weight.requires_grad_()
        out = packed_conv2d(x, weight, events=True)
        assert not seen and torch.equal(out, F.conv2d(x, weight))
        (grad,) = torch.autograd.grad(out.sum(), weight)
        assert torch.equal(grad, torch.autograd.grad(F.conv2d(x, weight).sum(), weight)[0])

    def test_only_where_asked(self, monkeypatch):
        seen = on_events(monkeypatch)
        packed_conv2d(sparse(2, 32, 8, 8), torch.randn(32, 32, 3, 3, requires_grad=True))
        assert not seen

    def test_analog_input_is_refused(self):
        with pytest.raises(ValueError, match='packed_spikes=False'):
            packed_conv2d(sparse(2, 32, 8, 8) * 0.5, torch.randn(32, 32, 3, 3, requires_grad=True), events=True)

    def test_compiles(self):
        x, weight = sparse(2, 32, 8, 8), torch.randn(32, 32, 3, 3, requires_grad=True)
        convolve = torch.compile(packed_conv2d, backend='aot_eager', fullgraph=True)
        assert torch.equal(convolve(x, weight, events=True), F.conv2d(x, weight))


class TestModule:
    def test_like_shares_parameters(self):
        conv = nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=True)
        packed = SpikeConv2d.like(conv, bits=1)
        assert packed.weight is conv.weight and packed.bias is conv.bias
        assert packed.state_dict().keys() == conv.state_dict().keys()
        x = spikes(2, 3, 8, 8)
        assert torch.equal(packed(x), conv(x))

    @pytest.mark.parametrize('padding', [dict(padding='same'), dict(padding=1, padding_mode='reflect')])
    def test_other_paddings_are_not_packed(self, padding):
        conv = nn.Conv2d(3, 5, 3, **padding)
        x = torch.rand(2, 3, 8, 8)
        assert torch.equal(SpikeConv2d.like(conv, bits=1)(x), conv(x))


@pytest.mark.parametrize('events', [True, False])
def test_an_image_without_a_batch(events):
    """As for `torch.nn.Conv2d`."""
    conv = SpikeConv2d(3, 4, 3, events=events)
    plain = torch.nn.Conv2d(3, 4, 3)
    plain.load_state_dict(conv.state_dict())
    x = (torch.rand(3, 8, 8) < 0.3).float()
    for each in (conv, plain):
        each(x).sum().backward()
    torch.testing.assert_close(conv.weight.grad, plain.weight.grad)


def test_traced(tmp_path):
    """`torch.jit` and the exporter to ONNX that traces see a plain convolution, for a batch of any size."""
    conv, x = SpikeConv2d(3, 4, 3), spikes(2, 3, 8, 8)
    traced = torch.jit.trace(conv, x)
    for each in (x, x[:1]):
        assert torch.equal(traced(each), conv(each))
    torch.onnx.export(conv, (x,), tmp_path / 'conv.onnx', dynamo=False)
    assert (tmp_path / 'conv.onnx').stat().st_size
