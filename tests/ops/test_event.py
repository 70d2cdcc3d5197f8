"""The event-driven ops against their definition in plain PyTorch."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.library import opcheck

from mmsnn.ops import NeuronSettings, event, event_conv, event_reference, reference

# channels, outputs, groups, kernel, stride, padding, dilation, height and width
SHAPES = [
    (64, 64, 1, (3, 3), (1, 1), (1, 1), (1, 1), (9, 8)),
    (65, 130, 1, (3, 3), (2, 2), (1, 1), (1, 1), (9, 8)),
    (6, 10, 2, (3, 3), (1, 1), (1, 1), (2, 2), (9, 8)),
    (5, 7, 1, (1, 5), (2, 1), (0, 2), (1, 1), (7, 9)),
    (40, 40, 40, (3, 3), (1, 1), (1, 1), (1, 1), (8, 8)),
    (130, 33, 1, (1, 1), (1, 1), (0, 0), (1, 1), (5, 5)),
    (3, 200, 1, (7, 7), (2, 2), (3, 3), (1, 1), (20, 21)),
    (8, 8, 1, (2, 4), (3, 2), (2, 5), (3, 1), (11, 6)),
    # weights of several times the second cache
    (192, 64, 1, (3, 3), (1, 1), (1, 1), (1, 1), (7, 7)),
    (1, 1, 1, (1, 1), (1, 1), (0, 0), (1, 1), (1, 1)),
]
SPIKES = ('bytes', 'sums', 'floats', 'none')


def spikes(kind, shape, density=0.15):
    """A map of one kind."""
    fired = torch.rand(shape) < density
    if kind == 'bytes':
        return fired.to(torch.uint8)
    if kind == 'sums':
        return fired.to(torch.uint8) * torch.randint(1, 256, shape, dtype=torch.uint8)
    return fired * torch.randn(shape) if kind == 'floats' else torch.zeros(shape)


def arguments(shape, kind, N=4):
    """Input, weights, shift and geometry."""
    channels, outputs, groups, kernel, stride, padding, dilation, size = shape
    x = spikes(kind, (N, channels, *size))
    return x, torch.randn(outputs, channels // groups, *kernel), torch.randn(outputs), stride, padding, dilation, groups


def close(got, expected):
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-6 * scale)


@pytest.mark.parametrize('kind', SPIKES)
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_conv_and_its_gradients(shape, kind):
    x, weight, bias, *geometry = arguments(shape, kind)
    leaves = [weight.requires_grad_(), bias.requires_grad_()]
    if x.is_floating_point():
        leaves.append(x.requires_grad_())
    got, expected = event_conv(x, weight, bias, *geometry), F.conv2d(x.float(), weight, bias, *geometry)
    close(got, expected)
    assert got.is_contiguous(memory_format=torch.channels_last) and got.dtype == torch.float32
    cotangent = torch.randn_like(expected)
    for a, b in zip(torch.autograd.grad(got, leaves, cotangent), torch.autograd.grad(expected, leaves, cotangent)):
        close(a, b)


@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_rows(shape, half):
    _, weight, _, *_, groups = arguments(shape, 'none')
    rows = torch.ops.mmsnn.event_rows(weight, groups, half)
    assert torch.equal(rows, event_reference.rows(weight, groups, half))
    back = event_reference.weights(rows, len(weight), weight.shape[2:], groups)
    # as near as a bfloat16
    assert ((back - weight).abs() <= weight.abs() * (2**-8 if half else 0)).all()


def test_sixteen_bits_of_odd_numbers():
    weight = torch.tensor([0.0, -0.0, 1e-40, -1e38, 3e38, 1.0, -1.0, 1e-30]).repeat(5)[:40].reshape(40, 1, 1, 1)
    weight = torch.cat([weight, weight.flip(0)])
    back = event_reference.weights(torch.ops.mmsnn.event_rows(weight, 1, True), 80, (1, 1), 1)
    assert ((back - weight).abs() <= weight.abs() * 2**-8 + 1e-38).all()


NEURONS = [
    dict(tau=2.0, v_reset=0.0),
    dict(tau=None, v_reset=None),
    dict(tau=1.5, v_reset=-0.2, decay_input=False, v_threshold=0.7),
    dict(tau=4 / 3, v_reset=None, decay_input=False, levels=4),
    dict(tau=4 / 3, v_reset=None, levels=1, rounded=True),
    dict(tau=torch.tensor(1.7), v_reset=0.1),
]


def encoded(neuron):
    """``kind``, ``values`` and ``tau`` of the ops; the keywords of the reference."""
    learned = neuron['tau'] if isinstance(neuron['tau'], torch.Tensor) else None
    settings = NeuronSettings(**(neuron if learned is None else {**neuron, 'tau': 2.0}))
    return (*settings.encoded, learned), neuron


@pytest.mark.parametrize('neuron', NEURONS, ids=str)
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_layer(shape, neuron):
    """Spikes are those of `reference.lif` of the very current that the op reports; the current is the convolution's."""
    fires, plain = encoded(neuron)
    for kind, T, half, which in zip(SPIKES, (1, 2, 4, 2), (False, True, False, False), range(4)):
        x, weight, shift, *geometry = arguments(shape, kind)
        groups = geometry[-1]
        rows = torch.ops.mmsnn.event_rows(weight * 0.3, groups, half)
        used = event_reference.weights(rows, len(weight), weight.shape[2:], groups)
        expected = F.conv2d(x.float(), used, shift, *geometry)
        add = [None, torch.randn_like(expected), spikes('sums', expected.shape), None][which]
        expected = expected if add is None else expected + add
        call = (x, rows, shift, add, len(weight), weight.shape[2:], *geometry, T, *fires)
        fired, current = torch.ops.mmsnn.event_layer(*call, True, True)
        close(current, expected)
        assert torch.equal(fired, reference.lif(current, T, **plain).to(torch.uint8))
        # what serves without compiled kernels
        plain_fired, plain_current = event._event_layer(*call, True, True)
        close(plain_current, current)
        assert plain_fired.shape == fired.shape and (plain_fired != fired).float().mean() < 1e-3
        assert torch.equal(event._event_lif(current, T, False, *fires), fired)
        alone, nothing = torch.ops.mmsnn.event_layer(*call, True, False)
        assert torch.equal(alone, fired) and not nothing.numel()
        nothing, alone = torch.ops.mmsnn.event_layer(*call, False, True)
        assert torch.equal(alone, current) and not nothing.numel()
        for out in (fired, current):
            assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('neuron', NEURONS, ids=str)
@pytest.mark.parametrize('size', [(4, 3, 5, 7), (4, 70, 9, 3), (8,), (4, 600)], ids=str)
def test_lif(size, neuron):
    fires, plain = encoded(neuron)
    for T, repeat in itertools.product((1, 4), (False, True)):
        x = torch.randn(size) * 1.5
        x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
        got = torch.ops.mmsnn.event_lif(x, T, repeat, *fires)
        steps = x.repeat(T, *[1] * (x.dim() - 1)) if repeat else x
        assert torch.equal(got, reference.lif(steps, T, **plain).to(torch.uint8))
        assert got.stride() == x.stride()


@pytest.mark.parametrize(
    'x', [torch.ones(5, 1).t(), torch.randn(3, 1, 4, 4).transpose(0, 1), torch.randn(1, 4)], ids=['t', 'moved', 'plain']
)
def test_lif_of_one_image_with_any_first_stride(x):
    """What the first stride says of a single image is no measure of the room that its spikes take."""
    fires, plain = encoded(NEURONS[0])
    for T in (1, 4, 1000):
        for serve in (torch.ops.mmsnn.event_lif, event._event_lif):
            got = serve(x, T, True, *fires)
            assert got.untyped_storage().nbytes() == T * x.numel()
            expected = reference.lif(x.repeat(T, *[1] * (x.dim() - 1)), T, **plain).to(torch.uint8)
            assert torch.equal(got, expected)
        opcheck(torch.ops.mmsnn.event_lif.default, (x, T, True, *fires))


@pytest.mark.parametrize('kernel, stride, padding', [((3, 3), (2, 2), (1, 1)), ((2, 3), (2, 1), (0, 1)), ((2, 2),) * 3])
def test_max_pool(kernel, stride, padding):
    padding = [min(p, k // 2) for p, k in zip(padding, kernel)]
    for channels in (1, 64, 70):
        x = spikes('sums', (3, channels, 9, 8))
        got = torch.ops.mmsnn.event_max_pool(x, kernel, stride, padding, (1, 1))
        assert torch.equal(got, F.max_pool2d(x.float(), kernel, stride, padding).to(torch.uint8))


@pytest.mark.parametrize('n', [0, 1, 31, 8161, 100_003])
def test_count(n):
    x = torch.randint(0, 3, (n,), dtype=torch.uint8)
    assert torch.ops.mmsnn.event_count(x).item() == int((x > 0).sum())


def test_no_images():
    x, weight, bias, *geometry = arguments(SHAPES[0], 'bytes', N=0)
    assert event_conv(x, weight, bias, *geometry).shape == (0, 64, 9, 8)


def test_nan_and_inf_count_as_events():
    x, weight, bias, *geometry = arguments(SHAPES[0], 'floats')
    x[1, 3, 4, 5], x[2, 0, 0, 0] = torch.nan, torch.inf
    got, expected = event_conv(x, weight, bias, *geometry), F.conv2d(x, weight, bias, *geometry)
    assert torch.equal(got.isfinite(), expected.isfinite())


def test_order_of_additions():
    """Sums are those of one addition after the other, over rows, columns and channels, to the bit."""
    x, weight, _, stride, padding, _, _ = arguments(SHAPES[0], 'bytes')
    got = event_conv(x, weight, None, stride, padding)
    patches = F.unfold(x.float(), 3, padding=1).unflatten(1, (64, 9)).transpose(1, 2).flatten(1, 2)
    sums = torch.zeros(4, 64, 72)
    for tap, row in enumerate(weight.permute(2, 3, 1, 0).reshape(-1, 64)):
        sums = sums + patches[:, tap, None] * row[None, :, None]
    assert torch.equal(got.flatten(2), sums)


def test_threads_do_not_change_a_bit():
    x, weight, bias, *geometry = arguments(SHAPES[1], 'sums')
    one = event_conv(x, weight, bias, *geometry)
    torch.set_num_threads(2)
    try:
        two = event_conv(x, weight, bias, *geometry)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one, two)


def test_gradcheck_behind_a_smooth_neuron():
    """The derivatives are those of the function, where what fires is smooth; float64 takes the same formulas."""
    x = (torch.rand(4, 3, 5, 5, dtype=torch.float64) < 0.4).double()
    weight, bias = torch.randn(4, 3, 3, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)

    class Conv(torch.autograd.Function):
        """`event_conv` in float64, which only the reference has, with the derivative that is registered."""

        @staticmethod
        def forward(ctx, *inputs):
            event._keep(ctx, inputs, None)
            return event_reference.conv(*inputs)

        @staticmethod
        def backward(ctx, grad):
            calls = torch.ops.mmsnn.event_conv_weight_grad
            torch.ops.mmsnn.event_conv_weight_grad = event_reference.conv_weight_grad
            try:
                return event._differentiate(ctx, grad)
            finally:
                torch.ops.mmsnn.event_conv_weight_grad = calls

    def smooth(x, weight, bias):
        out = Conv.apply(x, weight, bias, (1, 1), (1, 1), (1, 1), 1)
        return reference.lif(out, 2, smooth=True)

    assert torch.autograd.gradcheck(smooth, [t.requires_grad_() for t in (x, weight, bias)])


def test_it_says_what_serves(monkeypatch):
    used = []
    monkeypatch.setattr('mmsnn.ops.event.use', used.append)
    event_conv(*arguments(SHAPES[-1], 'bytes'))
    assert used == ['cpu']


def test_compiles():
    x, weight, bias, *geometry = arguments(SHAPES[0], 'floats')
    compiled = torch.compile(lambda *a: event_conv(*a).relu(), backend='aot_eager', fullgraph=True)
    close(compiled(x, weight, bias, *geometry), event_conv(x, weight, bias, *geometry).relu())
    opcheck(torch.ops.mmsnn.event_conv.default, (x, weight.requires_grad_(), bias, *map(list, geometry[:3]), 1))


def test_functional_transforms():
    x, weight, bias, *geometry = arguments(SHAPES[0], 'floats')
    one = torch.func.vmap(lambda w: event_conv(x, w, bias, *geometry))(torch.stack([weight, 2 * weight]))
    close(one[0], event_conv(x, weight, bias, *geometry))


def test_copies_of_a_network_with_it():
    class Net(torch.nn.Conv2d):
        def forward(self, x):
            return event_conv(x, self.weight, self.bias, self.stride, self.padding)

    net = Net(3, 4, 3, padding=1)
    x = spikes('floats', (2, 3, 6, 6))
    assert torch.equal(net(x), copy.deepcopy(net)(x))
