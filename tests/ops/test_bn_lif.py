"""`mmsnn.ops.bn_lif` against `F.batch_norm` and `lif`, over processes, and under what torch does to functions."""

import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from ops_checks import half_of_the_batch
from torch.utils.checkpoint import checkpoint

from mmsnn.ops import bn_lif, lif, reference

LAYOUTS = {
    '2d': lambda x: x.flatten(1)[:, :3].contiguous(),
    '3d': lambda x: x.flatten(2),
    'nchw': lambda x: x,
    'nhwc': lambda x: x.contiguous(memory_format=torch.channels_last),
    'transposed': lambda x: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
}
NEURONS = [
    dict(tau=2.0),
    dict(tau=1.7, v_reset=None, surrogate='triangle', decay_input=False),
    dict(tau=None, v_reset=-0.2, surrogate='sigmoid', detach_reset=True),
    dict(tau=1.7, v_reset=None, levels=3, surrogate='rectangle'),
]


def norm(dtype=torch.float64, affine=True, track=True):
    """Arguments of a batch norm of three channels."""
    out = dict(running_mean=None, running_var=None, weight=None, bias=None)
    if track:
        out.update(
            running_mean=torch.tensor([0.3, -0.2, 0.0]).to(dtype), running_var=torch.tensor([0.8, 1.4, 1.0]).to(dtype)
        )
    if affine:
        out.update(weight=torch.tensor([1.2, 0.8, -1.0]).to(dtype), bias=torch.tensor([0.5, 1.0, 0.3]).to(dtype))
    return out


def run(op, x, T, norm, cotangents, tau, v_init, **settings):
    """Outputs, running statistics and gradients by name."""
    given = {**{k: v for k, v in norm.items() if v is not None}, 'x': x, 'v_init': v_init}
    if tau is not None:
        given['tau'] = torch.tensor(tau, dtype=v_init.dtype)
    given = {k: v.detach().clone().requires_grad_(not k.startswith('running')) for k, v in given.items()}
    rest = {k: given.get(k) for k in norm if k not in ('running_mean', 'running_var')}
    statistics = given.get('running_mean'), given.get('running_var')
    out, v = op(
        given['x'], T, *statistics, **rest, tau=given.get('tau'), v_init=given['v_init'], return_v=True, **settings
    )
    leaves = {k: v for k, v in given.items() if v.requires_grad}
    grads = torch.autograd.grad([out, v], list(leaves.values()), cotangents)
    got = {'spikes': out.detach(), 'potential': v.detach(), **{f'gradient of {k}': g for k, g in zip(leaves, grads)}}
    return {**got, **{k: v for k, v in given.items() if k.startswith('running')}}


def compare(x, T, norm, neuron, rtol=1e-9, **settings):
    """``bn_lif`` and its definition agree in everything."""
    step = x.shape[0] // T, *x.shape[1:]
    wide = torch.promote_types(x.dtype, torch.float32)
    arguments = dict(v_init=torch.randn(step, dtype=wide) * 0.3, **{'tau': 2.0, **neuron})
    cotangents = [torch.randn(x.shape).to(x.dtype), torch.randn(step, dtype=wide)]
    got, expected = (run(op, x, T, norm, cotangents, **arguments, **settings) for op in (bn_lif, reference.bn_lif))
    assert 0 < expected['spikes'].bool().double().mean() < 1
    for name, value in expected.items():
        largest = value.double().abs().max().item()
        torch.testing.assert_close(
            got[name], value, rtol=rtol, atol=rtol * max(1.0, largest), msg=lambda m, name=name: f'{name}: {m}'
        )


class TestDefinition:
    @pytest.mark.parametrize('training', [True, False], ids=['training', 'evaluation'])
    @pytest.mark.parametrize('layout', LAYOUTS)
    @pytest.mark.parametrize('neuron', NEURONS, ids=str)
    def test_everything(self, neuron, layout, training):
        x = LAYOUTS[layout](torch.randn(12, 3, 5, 7, dtype=torch.float64) * 1.5 + 0.4)
        compare(x, 4, norm(), neuron, training=training, momentum=0.3, eps=1e-3)

    @pytest.mark.parametrize('training', [True, False], ids=['training', 'evaluation'])
    @pytest.mark.parametrize('affine', [True, False], ids=['affine', 'plain'])
    def test_affine(self, affine, training):
        x = torch.randn(6, 3, 40, dtype=torch.float64)
        compare(x, 3, norm(affine=affine), dict(), training=training)

    def test_without_running_statistics(self):
        compare(torch.randn(6, 3, 40, dtype=torch.float64), 3, norm(track=False), dict(), training=True)

    def test_more_steps_than_are_kept_at_once(self):
        for training in (True, False):
            compare(torch.randn(80, 3, 5, dtype=torch.float64), 40, norm(), dict(tau=1.7), training=training)

    @pytest.mark.parametrize('channels, space', [(1, 300), (300, 1), (129, 2), (2, 128)])
    def test_sizes(self, channels, space):
        values = {k: v[:1].expand(channels).clone() for k, v in norm().items()}
        for x in (torch.randn(6, channels, space), torch.randn(6, space, channels).transpose(1, 2)):
            compare(x.double(), 3, values, dict(), training=True)

    @pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize('training', [True, False], ids=['training', 'evaluation'])
    def test_narrow_types(self, dtype, training):
        """Rounding moves a few potentials over the threshold, compared with the same numbers in float64."""
        x = (torch.randn(32, 3, 20, 20) * 1.5).to(dtype)
        values = norm(torch.float32)
        cotangents = [torch.randn(x.shape).to(dtype), torch.zeros(8, 3, 20, 20)]
        shared = dict(tau=1.7, v_reset=None, training=training)
        start = torch.zeros(8, 3, 20, 20)
        got = run(bn_lif, x, 4, values, cotangents, v_init=start, **shared)
        wide = {k: v.double() for k, v in values.items()}
        expected = run(
            reference.bn_lif, x.double(), 4, wide, [c.double() for c in cotangents], v_init=start.double(), **shared
        )
        assert got['spikes'].dtype == got['gradient of x'].dtype == dtype and got['potential'].dtype == torch.float32
        same = got['spikes'].double() == expected['spikes']
        assert same.double().mean() > 0.9995
        close = torch.isclose(got['gradient of x'].double(), expected['gradient of x'], rtol=1e-2, atol=1e-4)
        assert close.double().mean() > 0.995
        for name in ('running_mean', 'running_var'):
            torch.testing.assert_close(got[name].double(), expected[name], rtol=1e-5, atol=1e-6)
        for name in ('weight', 'bias', 'tau'):
            name = f'gradient of {name}'
            torch.testing.assert_close(got[name].double(), expected[name], rtol=2e-2, atol=2.0)

    @pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
    def test_large_mean_small_variance(self, dtype):
        x = (
            torch.randn(64, 3, 15, 15, dtype=torch.float64) * 0.01 + torch.tensor([100.0, -50.0, 0.0]).view(3, 1, 1)
        ).to(dtype)
        mean, var = torch.ops.mmsnn.bn_moments(x)
        wide = x.double()
        torch.testing.assert_close(mean.double(), wide.mean((0, 2, 3)), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(var.double(), wide.var((0, 2, 3), correction=0), rtol=1e-4, atol=0)
        if dtype == torch.float64:
            compare(x, 4, norm(), dict(), rtol=1e-7, training=True)

    def test_statistics_are_torchs(self):
        """Over three batches, in torch's own module."""
        module = torch.nn.BatchNorm2d(3, momentum=0.2)
        mean, var = torch.zeros(3), torch.ones(3)
        for _ in range(3):
            x = torch.randn(4, 3, 5, 5) * 2 + 1
            module(x)
            bn_lif(x, 2, mean, var, training=True, momentum=0.2)
        torch.testing.assert_close(mean, module.running_mean)
        torch.testing.assert_close(var, module.running_var)

    def test_evaluation_changes_no_statistics(self):
        values = norm(torch.float32)
        before = {k: v.clone() for k, v in values.items()}
        bn_lif(torch.randn(4, 3, 5), 2, **values)
        assert all(torch.equal(v, before[k]) for k, v in values.items())


class TestErrors:
    @pytest.mark.parametrize(
        'change, error, match',
        [
            (dict(running_mean=None), ValueError, 'needed unless training'),
            (dict(running_var=None), ValueError, 'go together'),
            (dict(running_mean=None, training=True), ValueError, 'go together'),
            (dict(running_mean=torch.zeros(1)), ValueError, 'running_mean.*3 channels'),
            (dict(weight=torch.ones(3, 1)), ValueError, 'weight.*3 channels'),
            (dict(bias=torch.zeros(3, dtype=torch.long)), TypeError, 'bias.*int64'),
            (dict(running_var=torch.ones(3, device='meta')), ValueError, 'running_var.*device'),
            (dict(weight=1.0), TypeError, 'weight'),
            (dict(training=1), TypeError, 'training'),
            (dict(training=True, momentum=None), TypeError, 'momentum'),
            (dict(eps=-1e-5), ValueError, 'eps'),
            (dict(tau=0.5), ValueError, 'tau'),
            (dict(v_init=torch.zeros(3, 2, 5)), ValueError, 'v_init'),
        ],
    )
    def test_argument(self, change, error, match):
        arguments = {**norm(torch.float32), **change}
        with pytest.raises(error, match=match):
            bn_lif(torch.randn(4, 3, 5), 2, **arguments)

    def test_shapes(self):
        with pytest.raises(ValueError, match='second dimension'):
            bn_lif(torch.randn(4), 2, None, None, training=True)
        with pytest.raises(ValueError, match='more than one value'):
            bn_lif(torch.randn(1, 3), 1, None, None, training=True)
        # momentum has nothing to do in evaluation
        bn_lif(torch.randn(4, 3), 2, torch.zeros(3), torch.ones(3), momentum=None)


def test_two_processes_are_one(tmp_path):
    x, cotangent = torch.randn(12, 3, 5, 5, dtype=torch.float64) * 2, torch.randn(12, 3, 5, 5, dtype=torch.float64)
    weight, bias = norm()['weight'], norm()['bias']
    mp.spawn(half_of_the_batch, (str(tmp_path / 'store'), x, weight, bias, cotangent, str(tmp_path / 'out')), nprocs=2)
    halves = [torch.load(tmp_path / f'out{rank}') for rank in range(2)]
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    mean, var = torch.zeros(3, dtype=x.dtype), torch.ones(3, dtype=x.dtype)
    spikes = bn_lif(leaves[0], 4, mean, var, *leaves[1:], training=True, momentum=0.3)
    grads = torch.autograd.grad(spikes, leaves, cotangent)
    for i, whole in ((0, spikes), (1, grads[0])):
        both = torch.cat([h[i].unflatten(0, (4, -1)) for h in halves], 1).flatten(0, 1)
        torch.testing.assert_close(both, whole, rtol=1e-9, atol=1e-9)
    # as with SyncBatchNorm, DDP sums these
    for i in (2, 3):
        torch.testing.assert_close(halves[0][i] + halves[1][i], grads[i - 1], rtol=1e-9, atol=1e-9)
    for i, whole in ((4, mean), (5, var)):
        for half in halves:
            torch.testing.assert_close(half[i], whole, rtol=1e-12, atol=1e-12)


def call_lif(x, weight, bias, mean, var):
    return lif(x * weight.view(-1, 1, 1) + bias.view(-1, 1, 1), 3, tau=1.7)


def call_bn_lif(x, weight, bias, mean, var):
    return bn_lif(x, 3, mean, var, weight, bias, training=True, tau=1.7)


both = pytest.mark.parametrize('op', [call_lif, call_bn_lif], ids=['lif', 'bn_lif'])


def leaves(dtype=torch.float32):
    values = norm(dtype)
    x = torch.randn(6, 3, 8, 8).to(dtype)
    inputs = [t.requires_grad_() for t in (x, values['weight'], values['bias'])]
    return inputs, [values['running_mean'], values['running_var']]


class TestTorch:
    @both
    @pytest.mark.parametrize('backend', ['aot_eager', 'inductor'])
    def test_compile(self, op, backend):
        inputs, statistics = leaves()
        mine = [s.clone() for s in statistics]
        torch.compiler.reset()
        compiled = torch.compile(op, fullgraph=True, backend=backend)
        try:
            out = compiled(*inputs, *mine)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            pytest.skip(f'inductor has no working compiler here: {error}'[:200])
        expected = op(*inputs, *statistics)
        cotangent = torch.randn_like(out)
        # fused multiply-adds may move a potential over the threshold
        assert (out != expected).float().mean() < 1e-3 and 0 < expected.mean() < 1
        for got, want in zip(*(torch.autograd.grad(o, inputs, cotangent) for o in (out, expected))):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * want.abs().max().item())
        for got, want in zip(mine, statistics):
            torch.testing.assert_close(got, want)

    @both
    def test_autocast_keeps_the_type(self, op):
        for dtype in (torch.float32, torch.bfloat16):
            inputs, statistics = leaves()
            x = inputs[0].detach().to(dtype)
            with torch.autocast('cpu', dtype=torch.bfloat16):
                if op is call_bn_lif:
                    out = op(x, *inputs[1:], *statistics)
                else:
                    out = lif(x, 3)
            assert out.dtype == dtype and 0 < out.float().mean() < 1

    @both
    def test_activation_checkpointing(self, op):
        inputs, statistics = leaves()
        expected = torch.autograd.grad(op(*inputs, *[s.clone() for s in statistics]).square().sum(), inputs)
        again = checkpoint(lambda *inputs: op(*inputs, *statistics), *inputs, use_reentrant=False)
        for got, want in zip(torch.autograd.grad(again.square().sum(), inputs), expected):
            assert torch.equal(got, want)

    @both
    def test_second_derivative_is_an_error(self, op):
        inputs, statistics = leaves()
        (first,) = torch.autograd.grad(op(*inputs, *statistics).square().sum(), inputs[0], create_graph=True)
        with pytest.raises((RuntimeError, NotImplementedError), match='derivative'):
            # with x in the sum, a missing derivative would go unnoticed
            torch.autograd.grad((first * inputs[0]).sum(), inputs[0])

    @pytest.mark.parametrize('op', ['lif', 'bn_lif'])
    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
    def test_keeps_x_alone(self, op, dtype):
        x = torch.randn(8, 3, 16, 16).to(dtype).requires_grad_()
        kept = {}

        def keep(t):
            kept[t.data_ptr()] = t
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            out = lif(x, 4) if op == 'lif' else bn_lif(x, 4, torch.zeros(3), torch.ones(3), training=True)
        assert out.requires_grad
        large = [t for t in kept.values() if t.numel() > 3]
        assert [t.data_ptr() for t in large] == [x.data_ptr()]

    def test_version_counter_guards_the_input(self):
        x = torch.randn(4, 5, requires_grad=True)
        y = x * 2
        out = lif(y, 2)
        y.add_(1)
        with pytest.raises(RuntimeError, match='modified by an inplace operation'):
            out.sum().backward()


def test_plain_norm_is_torchs():
    """The definition itself: `F.batch_norm`, then `lif`."""
    x, values = torch.randn(6, 3, 5, 5), norm(torch.float32)
    y = F.batch_norm(x, *values.values())
    assert torch.equal(reference.bn_lif(x, 3, **values), reference.lif(y, 3))
