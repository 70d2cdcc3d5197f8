"""`mmsnn.ops.lif` against a plain loop over numbers, hand-worked values, and SpikingJelly."""

import math

import pytest
import torch

from mmsnn.ops import NeuronSettings, fallback, lif, reference

SURROGATES = ('triangle', 'atan', 'sigmoid', 'rectangle')
ALPHA = dict(triangle=1.0, atan=2.0, sigmoid=4.0, rectangle=1.0)
# where float32 may round a potential to the other side of the threshold
MARGIN = 1e-6

each_lif = pytest.mark.parametrize('op', [lif, reference.lif], ids=['public', 'reference'])


def by_hand(x, tau, v_threshold, v_reset, decay_input, levels=1, v=None):
    """Spikes, potentials before firing, and the last potential of one neuron, number by number."""
    rest = 0.0 if v_reset is None else v_reset
    v = rest if v is None else v
    spikes, before = [], []
    for current in x:
        leak = 0.0 if tau is None else (v - rest) / tau
        charge = current if tau is None or not decay_input else current / tau
        h = v - leak + charge
        if levels == 1:
            s = 1 if h >= v_threshold else 0
        else:
            # ties to the even integer, as in Python
            s = round(min(max(h / v_threshold, 0), levels))
        v = h - s * v_threshold if v_reset is None else (v_reset if s else h)
        spikes.append(s)
        before.append(h)
    return spikes, before, v


def slope(u, kind, alpha):
    if kind == 'atan':
        return alpha / 2 / (1 + (math.pi / 2 * alpha * u) ** 2)
    if kind == 'sigmoid':
        s = 1 / (1 + math.exp(-alpha * u))
        return alpha * s * (1 - s)
    if kind == 'triangle':
        return max(0.0, alpha - alpha**2 * abs(u))
    return alpha if abs(u) < 0.5 / alpha else 0.0


def gradient_by_hand(x, weights, tau, v_threshold, v_reset, decay_input, detach_reset, kind, alpha, levels=1):
    """d(sum of weights * spikes) / dx and / dtau, by the chain rule forward in time: one derivative an input."""
    spikes, before, _ = by_hand(x, tau, v_threshold, v_reset, decay_input, levels)
    keep = 1.0 if tau is None else 1 - 1 / tau
    gain = 1.0 if tau is None or not decay_input else 1 / tau
    rest = 0.0 if v_reset is None else v_reset

    def slope_of(h):
        if levels == 1:
            return slope(h - v_threshold, kind, alpha)
        u = h / v_threshold
        if kind == 'rectangle' and alpha == 1:
            return (0 <= u <= levels) / v_threshold
        return sum(slope(u - k - 0.5, kind, alpha) for k in range(levels)) / v_threshold

    def run(source):
        """Derivative of the weighted sum where step ``source`` (None: tau) is the variable."""
        dv, total, v = 0.0, 0.0, rest
        for t, (s, h) in enumerate(zip(spikes, before)):
            dh = keep * dv + (gain if source == t else 0.0)
            if source is None:
                # h = v + (x - (v - rest)) * r or v - (v - rest) * r + x, with r = 1 / tau
                dh += ((x[t] if decay_input else 0.0) - (v - rest)) * -1 / tau**2
            ds = slope_of(h) * dh
            total += weights[t] * ds
            through = 0.0 if detach_reset else ds
            if v_reset is None:
                dv, v = dh - through * v_threshold, h - s * v_threshold
            else:
                dv, v = (1 - s) * dh - through * h + through * v_reset, v_reset if s else h
        return total

    return [run(t) for t in range(len(x))], None if tau is None else run(None)


CASES = [
    dict(tau=2.0),
    dict(tau=2.0, decay_input=False, surrogate='triangle'),
    dict(tau=1.7, v_reset=None, surrogate='sigmoid'),
    dict(tau=1.7, v_reset=-0.3, v_threshold=0.8, surrogate='rectangle'),
    dict(tau=1.7, v_reset=0.2, decay_input=False, detach_reset=True),
    dict(tau=None, v_reset=None, detach_reset=True, surrogate='triangle', alpha=0.7),
    dict(tau=None, v_reset=-0.1, surrogate='sigmoid', alpha=3.0),
    dict(tau=1.0, surrogate='atan', alpha=1.3),
    dict(tau=4 / 3, v_reset=None, decay_input=False, detach_reset=True, surrogate='rectangle', levels=4),
    dict(tau=1.7, v_reset=None, v_threshold=0.6, surrogate='triangle', levels=2),
]


def split(case):
    """A case as arguments of `by_hand`, and the rest that only the gradient needs."""
    full = dict(v_threshold=1.0, v_reset=0.0, decay_input=True, detach_reset=False, surrogate='atan', levels=1) | case
    kind = full.pop('surrogate')
    alpha = full.pop('alpha', ALPHA[kind])
    return full, kind, alpha


class TestByHand:
    @each_lif
    @pytest.mark.parametrize(
        'case, x, spikes, last',
        [
            # v <- v + (x - v) / 2: .75; 1.125 fires; .75; .75; 1.125 fires
            (dict(), [1.5, 1.5, 1.5, 0.75, 1.5], [0, 1, 0, 0, 1], 0.0),
            # v <- v / 2 + x: .75; 1.125 fires; .75; .875; 1.9375 fires
            (dict(decay_input=False), [0.75, 0.75, 0.75, 0.5, 1.5], [0, 1, 0, 0, 1], 0.0),
            # a potential of exactly the threshold fires
            (dict(tau=None), [0.5, 0.5, 0.25], [0, 1, 0], 0.25),
            # soft: 1.5 fires, .5 is left; 1.25 fires, .25; -.75
            (dict(tau=None, v_reset=None), [1.5, 0.75, -1.0], [1, 1, 0], -0.75),
            # rest at -.5: h = -.5 + (2.5 + 0) / 2 = .75; h = .75 + (1 - 1.25) / 2 = .625; h = .625 + (3 - 1.125) / 2
            (dict(v_reset=-0.5), [2.5, 1.0, 3.0], [0, 0, 1], -0.5),
            # a negative potential decays towards 0: -1; -.5; .25
            (dict(), [-2.0, 0.0, 1.0], [0, 0, 0], 0.25),
            # integers up to 3: 2.4 gives 2, .4 left; .2 + 4 gives 3, 1.2; .6 + .9 = 1.5 rounds to the even 2, -.5; -.25
            (
                dict(v_reset=None, decay_input=False, levels=3),
                [2.4, 4.0, 0.9, 0.0],
                [2, 3, 2, 0],
                -0.25,
            ),
        ],
    )
    def test_table(self, op, case, x, spikes, last):
        out, v = op(torch.tensor(x, dtype=torch.float64), len(x), return_v=True, **case)
        assert out.tolist() == spikes
        assert v.item() == pytest.approx(last, abs=1e-12)

    @each_lif
    @pytest.mark.parametrize('case', CASES, ids=str)
    @pytest.mark.parametrize('T', [1, 2, 5, 16])
    def test_value(self, op, case, T):
        x = torch.randn(T, 3, 5, dtype=torch.float64) * 1.5
        args, kind, alpha = split(case)
        args.pop('detach_reset')
        out, v = op(x, T, return_v=True, **case)
        small, small_v = op(x.float(), T, return_v=True, **case)
        assert out.dtype == v.dtype == torch.float64 and small.dtype == small_v.dtype == torch.float32
        for i in range(3):
            for j in range(5):
                spikes, before, last = by_hand(x[:, i, j].tolist(), **args)
                assert out[:, i, j].tolist() == spikes
                assert v[i, j].item() == pytest.approx(last, abs=1e-12)
                marks = [h / args['v_threshold'] - 0.5 for h in before] if args['levels'] > 1 else None
                near = [
                    abs(m - round(m)) if marks else abs(h - args['v_threshold'])
                    for h, m in zip(before, marks or before)
                ]
                if min(near) > MARGIN:
                    assert small[:, i, j].tolist() == spikes
                    assert small_v[i, j].item() == pytest.approx(last, abs=1e-5)

    @each_lif
    @pytest.mark.parametrize('case', CASES, ids=str)
    def test_gradient(self, op, case):
        x = torch.randn(6, 4, dtype=torch.float64) * 1.5
        weights = torch.randn(6, 4, dtype=torch.float64)
        args, kind, alpha = split(case)
        tau = case['tau'] if case.get('tau') is None else torch.tensor(case['tau'], dtype=torch.float64)
        for value in (x, tau):
            if value is not None:
                value.requires_grad_()
        (op(x, 6, **{**case, 'tau': tau}) * weights).sum().backward()
        dtau = 0.0
        for i in range(4):
            expected, of_tau = gradient_by_hand(
                x[:, i].tolist(), weights[:, i].tolist(), **args, kind=kind, alpha=alpha
            )
            assert x.grad[:, i].tolist() == pytest.approx(expected, abs=1e-10)
            dtau += of_tau or 0.0
        assert x.grad.abs().sum() > 0
        if tau is not None:
            assert tau.grad.item() == pytest.approx(dtau, abs=1e-10)

    @pytest.mark.parametrize('kind', SURROGATES)
    @pytest.mark.parametrize('alpha', [0.5, 1.0, 3.0])
    def test_surrogate(self, kind, alpha):
        u = torch.linspace(-40, 40, 320001, dtype=torch.float64)
        got = reference.surrogate_gradient(u, kind, alpha)
        at = slice(150000, 170000, 617)
        assert got[at].tolist() == pytest.approx([slope(v, kind, alpha) for v in u[at].tolist()])
        # atan's tails reach far
        assert torch.trapezoid(got, u).item() == pytest.approx(1.0, abs=0.03 if kind == 'atan' else 1e-3)
        assert reference.SURROGATES == ALPHA

    def test_levels_window_is_closed(self):
        """A silent neuron, and one that is exactly full, still learn."""
        x = torch.tensor([[-0.01, 0.0, 2.5, 4.0, 4.01]], requires_grad=True)
        lif(x, 1, tau=None, v_reset=None, levels=4, surrogate='rectangle').sum().backward()
        assert x.grad.tolist() == [[0.0, 1.0, 1.0, 1.0, 0.0]]

    def test_gradient_reaches_v_init_and_comes_from_v(self):
        x = torch.randn(4, 60, dtype=torch.float64) * 1.5
        start = torch.randn(60, dtype=torch.float64)

        def last(shift):
            return lif(x, 4, tau=1.7, v_init=start + shift, return_v=True, detach_reset=True)[1]

        shift = torch.zeros(60, dtype=torch.float64, requires_grad=True)
        last(shift).sum().backward()
        quiet = lif(x, 4, tau=1.7, v_init=start).sum(0) == 0
        assert quiet.any() and not quiet.all()
        # without a spike the potential is linear in its start; a spike with a detached reset cuts the path
        expected = torch.where(quiet, (1 - 1 / 1.7) ** 4, 0.0)
        torch.testing.assert_close(shift.grad, expected.double())


class TestSpikingJelly:
    """Version 2.0.0, in multi-step mode with its torch backend."""

    @pytest.fixture(autouse=True)
    def _import(self):
        self.neuron = pytest.importorskip('spikingjelly.activation_based.neuron')
        surrogate = pytest.importorskip('spikingjelly.activation_based.surrogate')
        self.multi_level = surrogate.MultiLevelSpikeCount
        self.surrogate = dict(
            triangle=surrogate.PiecewiseQuadratic,
            atan=surrogate.ATan,
            sigmoid=surrogate.Sigmoid,
            rectangle=surrogate.Rect,
        )

    @staticmethod
    def compare(theirs, T=5, **case):
        x = (torch.randn(T, 3, 2, 7) * 1.5).requires_grad_()
        y = x.detach().clone().requires_grad_()
        out, v = lif(x, T, return_v=True, **case)
        expected = theirs(y)
        cotangent = torch.randn_like(expected)
        out.backward(cotangent)
        expected.backward(cotangent)
        assert expected.mean() > 0 and expected.min() == 0
        assert torch.equal(out, expected)
        torch.testing.assert_close(v, theirs.v, rtol=0, atol=1e-6)
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize('kind', SURROGATES)
    @pytest.mark.parametrize('v_reset', [0.0, -0.3, None])
    @pytest.mark.parametrize('detach_reset', [False, True])
    def test_if(self, kind, v_reset, detach_reset):
        theirs = self.neuron.IFNode(
            v_reset=v_reset, surrogate_function=self.surrogate[kind](), detach_reset=detach_reset, step_mode='m'
        )
        self.compare(theirs, tau=None, v_reset=v_reset, surrogate=kind, detach_reset=detach_reset)

    @pytest.mark.parametrize('kind', SURROGATES)
    @pytest.mark.parametrize('tau', [2.0, 1.7])
    @pytest.mark.parametrize('decay_input', [True, False])
    @pytest.mark.parametrize('v_reset', [0.0, -0.3, None])
    @pytest.mark.parametrize('detach_reset', [False, True])
    def test_lif(self, kind, tau, decay_input, v_reset, detach_reset):
        case = dict(tau=tau, decay_input=decay_input, v_reset=v_reset, detach_reset=detach_reset)
        theirs = self.neuron.LIFNode(**case, surrogate_function=self.surrogate[kind](), step_mode='m')
        self.compare(theirs, **case, surrogate=kind)

    @pytest.mark.parametrize('kind', SURROGATES)
    def test_alpha_and_threshold(self, kind):
        case = dict(tau=1.7, v_threshold=0.6)
        theirs = self.neuron.LIFNode(**case, surrogate_function=self.surrogate[kind](alpha=1.5), step_mode='m')
        self.compare(theirs, **case, surrogate=kind, alpha=1.5)

    @pytest.mark.parametrize('init_tau', [2.0, 1.7])
    @pytest.mark.parametrize('decay_input', [True, False])
    @pytest.mark.parametrize('v_reset', [0.0, -0.3, None])
    def test_parametric_lif(self, init_tau, decay_input, v_reset):
        theirs = self.neuron.ParametricLIFNode(
            init_tau=init_tau,
            decay_input=decay_input,
            v_reset=v_reset,
            surrogate_function=self.surrogate['atan'](),
            step_mode='m',
        )
        w = theirs.w.detach().clone().requires_grad_()
        self.compare(theirs, tau=1 / w.sigmoid(), decay_input=decay_input, v_reset=v_reset)
        torch.testing.assert_close(w.grad, theirs.w.grad, rtol=1e-5, atol=1e-6)
        assert w.grad != 0

    @pytest.mark.parametrize('tau', [4 / 3, 2.0])
    @pytest.mark.parametrize('v_threshold', [1.0, 0.6])
    @pytest.mark.parametrize('detach_reset', [False, True])
    def test_integer_lif(self, tau, v_threshold, detach_reset):
        case = dict(tau=tau, v_threshold=v_threshold, detach_reset=detach_reset)
        theirs = self.neuron.ILIFNode(**case, surrogate_function=self.multi_level(3), step_mode='m')
        self.compare(theirs, **case, levels=3, v_reset=None, decay_input=False, surrogate='rectangle')


class TestState:
    @pytest.mark.parametrize('case', CASES, ids=str)
    @pytest.mark.parametrize('cut', [1, 3])
    def test_halves_equal_the_whole(self, case, cut):
        x = torch.randn(6, 2, 5) * 1.5
        whole, v = lif(x, 6, return_v=True, **case)
        first, between = lif(x[:cut], cut, return_v=True, **case)
        second, end = lif(x[cut:], 6 - cut, v_init=between, return_v=True, **case)
        assert torch.equal(torch.cat([first, second]), whole)
        assert torch.equal(end, v)
        assert between.abs().sum() > 0

    def test_shape_of_the_potential(self):
        for x, shape in ((torch.randn(6, 3, 4), (2, 3, 4)), (torch.randn(3, 2, 4), (2, 4)), (torch.randn(6), (2,))):
            assert lif(x, 3, return_v=True)[1].shape == shape

    def test_v_init_may_be_flat_or_shaped_as_a_step(self):
        x, v = torch.randn(4, 3, 5), torch.randn(2, 3, 5)
        expected = lif(x, 2, v_init=v)
        assert not torch.equal(expected, lif(x, 2))
        assert torch.equal(lif(x, 2, v_init=v.flatten()), expected)
        assert torch.equal(lif(x.unflatten(0, (2, 2)), 2, v_init=v).flatten(0, 1), expected)

    def test_inputs_are_left_alone(self):
        x, v = torch.randn(4, 3), torch.randn(2, 3)
        before = x.clone(), v.clone()
        out, last = lif(x, 2, v_init=v, return_v=True)
        out.add_(1), last.add_(1)
        assert torch.equal(x, before[0]) and torch.equal(v, before[1])

    def test_default_start_is_the_resting_potential(self):
        assert lif(torch.zeros(2, 3), 2, v_reset=-0.3, return_v=True)[1].eq(-0.3).all()
        assert lif(torch.zeros(2, 3), 2, v_reset=None, return_v=True)[1].eq(0).all()


class TestLayout:
    @pytest.mark.parametrize('T', [1, 2, 4, 5])
    def test_folded_equals_unfolded(self, T):
        x = torch.randn(T, 3, 2, 5, 7)
        out = lif(x, T)
        assert out.shape == x.shape
        assert torch.equal(lif(x.flatten(0, 1), T), out.flatten(0, 1))
        assert torch.equal(lif(x.flatten(1), T), out.flatten(1))
        for b in range(3):
            assert torch.equal(lif(x[:, b], T), out[:, b])

    @pytest.mark.parametrize(
        'arrange',
        [
            lambda x: x.contiguous(memory_format=torch.channels_last),
            lambda x: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
            lambda x: torch.stack([x, x], -1)[..., 1],
            lambda x: torch.cat([x, x])[: len(x)],
            lambda x: x[:, :1].expand(-1, 3, -1, -1),
        ],
        ids=['channels_last', 'transposed', 'strided', 'view', 'expanded'],
    )
    def test_strides_do_not_matter(self, arrange):
        x = torch.randn(6, 3, 5, 7)
        y = arrange(x).detach().requires_grad_()
        z = y.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
        got, expected = (lif(t, 2, tau=1.7, return_v=True) for t in (y, z))
        cotangent = torch.randn_like(expected[0])
        for out in (got, expected):
            (out[0] * cotangent).sum().backward()
        assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])
        assert torch.equal(y.grad, z.grad)

    @pytest.mark.parametrize('size', [0, 1, 63, 1025])
    def test_sizes(self, size):
        x = torch.randn(5, size, requires_grad=True)
        out = lif(x, 5)
        out.sum().backward()
        assert out.shape == x.grad.shape == (5, size)
        assert x.grad.isfinite().all()

    @pytest.mark.parametrize('dtype, margin', [(torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
    @pytest.mark.parametrize('tau', [2.0, 1.7, None])
    def test_half_precision_keeps_its_state_in_float32(self, dtype, margin, tau):
        x = (torch.randn(16, 500) * 0.7).to(dtype).requires_grad_()
        y = x.detach().float().requires_grad_()
        (out, v), (expected, last) = (lif(t, 16, tau=tau, return_v=True) for t in (x, y))
        assert out.dtype == dtype and v.dtype == torch.float32
        # both see the same numbers, so nothing may flip
        assert torch.equal(out.float(), expected) and torch.equal(v, last)
        assert 0 < expected.mean() < 1
        cotangent = torch.randn_like(expected).to(dtype)
        out.backward(cotangent)
        expected.backward(cotangent.float())
        assert x.grad.dtype == dtype
        torch.testing.assert_close(x.grad.float(), y.grad, rtol=margin, atol=margin)

    def test_under_autocast(self):
        x = torch.randn(4, 30)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            out = lif(x, 2, tau=1.7)
        assert out.dtype == torch.float32 and torch.equal(out, lif(x, 2, tau=1.7))

    def test_tensor_tau_may_have_another_type(self):
        x = torch.randn(4, 30, dtype=torch.bfloat16)
        for tau in (torch.tensor(1.7), torch.tensor([1.7]), torch.tensor(1.7, dtype=torch.float64)):
            tau.requires_grad_()
            out = lif(x, 2, tau=tau)
            out.float().sum().backward()
            assert out.dtype == x.dtype and torch.equal(out, lif(x, 2, tau=1.7))
            assert tau.grad.shape == tau.shape and tau.grad.dtype == tau.dtype and tau.grad.abs() > 0


class TestErrors:
    @pytest.mark.parametrize(
        'x, T, error, match',
        [
            (torch.zeros(4, 3), 0, ValueError, 'T must be at least 1'),
            (torch.zeros(4, 3), -2, ValueError, 'T must be at least 1'),
            (torch.zeros(4, 3), 2.0, TypeError, 'T must be an int'),
            (torch.zeros(4, 3), True, TypeError, 'T must be an int'),
            (torch.zeros(5, 3), 2, ValueError, r'T=2.*\(5, 3\)'),
            (torch.zeros(2, 3), 4, ValueError, r'T=4.*\(2, 3\)'),
            (torch.zeros(0, 3), 2, ValueError, r'T=2.*\(0, 3\)'),
            (torch.tensor(1.0), 1, ValueError, 'T=1'),
            (torch.zeros(4, 3, dtype=torch.long), 2, TypeError, 'floating-point.*int64'),
            (torch.zeros(4, 3, dtype=torch.complex64), 2, TypeError, 'floating-point.*complex64'),
            ([1.0, 2.0], 2, TypeError, 'floating-point.*list'),
        ],
    )
    def test_input(self, x, T, error, match):
        with pytest.raises(error, match=match):
            lif(x, T)

    @pytest.mark.parametrize(
        'settings, error, match',
        [
            (dict(tau=0.9), ValueError, 'tau must be at least 1.*0.9'),
            (dict(tau='2'), TypeError, 'tau must be a number'),
            (dict(tau=math.inf), ValueError, 'tau must be finite'),
            (dict(tau=torch.tensor([2.0, 2.0])), ValueError, r'tensor tau.*\(2,\)'),
            (dict(tau=torch.tensor(2)), ValueError, 'tensor tau.*int64'),
            (dict(v_threshold=0.0), ValueError, 'v_threshold.*above 0'),
            (dict(v_threshold=None), TypeError, 'v_threshold must be a number'),
            (dict(v_threshold=math.nan), ValueError, 'v_threshold must be finite'),
            (dict(v_reset=1.0), ValueError, 'v_reset must lie below v_threshold=1.0'),
            (dict(v_reset='hard'), TypeError, 'v_reset must be a number'),
            (dict(surrogate='Atan'), ValueError, "surrogate must be one of triangle, atan.*'Atan'"),
            (dict(alpha=0), ValueError, 'alpha.*above 0'),
            (dict(alpha='2'), TypeError, 'alpha must be a number'),
            (dict(levels=0), ValueError, 'levels must be at least 1'),
            (dict(levels=2.0), TypeError, 'levels must be an int'),
            (dict(levels=2), ValueError, 'levels=2 needs the soft reset'),
            (dict(v_init=torch.zeros(3)), ValueError, r'v_init.*\(2, 5\).*\(3,\)'),
            # as many numbers, in another arrangement
            (dict(v_init=torch.zeros(5, 2)), ValueError, r'v_init.*\(2, 5\).*\(5, 2\)'),
            (dict(v_init=torch.zeros(1, 5)), ValueError, 'v_init'),
            (dict(v_init=torch.zeros(2, 5, dtype=torch.long)), TypeError, 'v_init.*int64'),
            (dict(v_init=0.0), TypeError, 'v_init.*float'),
        ],
    )
    def test_setting(self, settings, error, match):
        with pytest.raises(error, match=match):
            lif(torch.zeros(4, 5), 2, **settings)


@pytest.mark.parametrize('op', [torch.ops.mmsnn.lif_backward, fallback.lif_backward], ids=['compiled', 'plain'])
def test_a_time_constant_without_a_leak_has_no_gradient(op):
    kind, values = NeuronSettings(tau=None).encoded
    x, tau = torch.randn(4, 3), torch.tensor([2.0])
    assert torch.equal(op(torch.ones(4, 3), None, x, 2, kind, values, tau, None)[1], torch.zeros(1))
