"""What the tests of the spiking transformers share: a plain network that computes step after step, and questions."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mmsnn import get_time_steps, set_time_steps
from mmsnn.layers import SpikeConv2d, unfold
from mmsnn.neurons import expand_levels

DOUBLE = torch.float64


class Steps:
    """Layers in eval mode, from a state dict, for one time step ``[B, C, H, W]``; membranes stay in between.

    The default neuron of the releases: tau 2, input decay, hard reset to 0. Tokens and heads are written out as in the
    papers.
    """

    def __init__(self, state):
        self.state, self.membranes = state, {}

    def conv(self, name, x, **kwargs):
        weight = self.state[f'{name}.weight']
        kwargs = {'padding': weight.shape[-1] // 2, **kwargs}
        return F.conv2d(x, weight, self.state.get(f'{name}.bias'), **kwargs)

    def norm(self, name, x):
        weight, bias, mean, var = (
            self.state[f'{name}.{key}'].view(1, -1, 1, 1) for key in ('weight', 'bias', 'running_mean', 'running_var')
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def lif(self, name, x, threshold=1.0):
        v = self.membranes.get(name, torch.zeros_like(x))
        h = v + (x - v) / 2
        spikes = (h >= threshold).to(x)
        self.membranes[name] = h * (1 - spikes)
        return spikes

    def attend(self, q, k, v, heads):
        """``q k^T v / 8`` of tokens, the matrix of all pairs written out."""
        q, k, v = (self.tokens(x, heads) for x in (q, k, v))
        pairs = torch.einsum('bhnc,bhmc->bhnm', q, k)
        out = torch.einsum('bhnm,bhmc->bhnc', pairs, v) / 8
        return out

    @staticmethod
    def tokens(x, heads):
        """``[B, C, H, W]`` to ``[B, heads, H*W, C/heads]``."""
        b, c, h, w = x.shape
        return x.reshape(b, heads, c // heads, h * w).transpose(2, 3)

    @staticmethod
    def maps(tokens, like):
        """Back again."""
        return tokens.transpose(2, 3).reshape(like.shape)

    def run(self, step, frames):
        """``step`` of each of the frames ``[B, T, C, H, W]``; the mean over time of each of its outputs."""
        self.membranes.clear()
        outs = [step(frame) for frame in frames.unbind(1)]
        return [torch.stack(out).mean(0) for out in zip(*outs)]


def pooled(x):
    """The 3x3 max pooling of stride 2."""
    return F.max_pool2d(x, 3, 2, 1)


class Questions:
    """Asked of every spiking transformer; subclasses say which, with which small arch, strides and widths."""

    cls: type
    arch: dict
    strides: tuple
    widths: tuple
    # of the convolution that images pass once
    first: str

    @pytest.fixture(autouse=True)
    def _lively(self, lively):
        self.lively = lively

    def make(self, size=(64, 64), dtype=torch.float32, **kwargs):
        model = self.cls(**{'arch': self.arch, 'T': 2, 'out_indices': self.all_stages(), **kwargs})
        return self.lively(model.to(dtype), torch.randn(3, 3, *size, dtype=dtype))

    def all_stages(self):
        return tuple(range(len(self.widths)))

    def plain(self, steps, x):
        """One time step of the whole network, a list with the output of each stage."""
        raise NotImplementedError

    @pytest.mark.parametrize('size', [(64, 64), (45, 67)])
    def test_equals_a_plain_loop(self, size):
        model = self.make(size, T=3).eval().double()
        frames = torch.randn(2, 3, 3, *size, dtype=DOUBLE)
        steps = Steps(model.state_dict())
        with torch.no_grad():
            for x in (frames, frames[:, 0]):
                still = x if x.dim() == 5 else x.unsqueeze(1).expand(-1, 3, -1, -1, -1)
                got = model(x)
                expected = steps.run(lambda frame: self.plain(steps, frame), still)
                assert len(got) == len(expected) == len(self.widths)
                for g, e in zip(got, expected):
                    assert e.std() > 0.05
                    torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize('size', [(64, 96), (33, 47), (7, 5)])
    def test_any_size(self, size):
        model = self.make().eval()
        for x in (torch.randn(3, 3, *size), torch.randn(3, 2, 3, *size)):
            shapes = [tuple(o.shape) for o in model(x)]
            assert shapes == [(3, w, *(-(-n // s) for n in size)) for w, s in zip(self.widths, self.strides)]

    def test_out_indices(self):
        x = torch.randn(3, 3, 64, 64)
        model = self.make(out_indices=-1).eval()
        assert model.out_channels == self.widths[-1:] and model(x)[0].shape[1] == self.widths[-1]
        model = self.make(out_indices=(0, -1)).eval()
        assert model.out_channels == (self.widths[0], self.widths[-1])
        assert [o.shape[1] for o in model(x)] == list(model.out_channels)

    def test_readout_none(self):
        model = self.make(readout='none').eval()
        mean = self.make()
        mean.load_state_dict(model.state_dict())
        x = torch.randn(3, 3, 64, 64)
        for steps, rate in zip(model(x), mean.eval()(x)):
            assert steps.shape[0] == 6
            torch.testing.assert_close(unfold(steps, 2).mean(0), rate)

    def test_other_channels_and_frames(self):
        model = self.cls(self.arch, T=2, in_channels=2)
        assert model(torch.randn(3, 2, 2, 32, 32))[0].shape[0] == 3
        with pytest.raises(ValueError, match='hold 3 time steps, the backbone has T=2'):
            model(torch.randn(2, 3, 2, 32, 32))

    def test_image_passes_the_first_convolution_once(self):
        model = self.make(T=4).eval()
        seen = []
        model.get_submodule(self.first).register_forward_hook(lambda _m, _i, out: seen.append(out.shape[0]))
        model(torch.randn(3, 3, 32, 32))
        model(torch.randn(3, 4, 3, 32, 32))
        assert seen == [3, 12]
        poisson = self.cls(self.arch, T=4, encoder=dict(type='PoissonEncoder'))
        poisson.get_submodule(self.first).register_forward_hook(lambda _m, _i, out: seen.append(out.shape[0]))
        poisson(torch.rand(3, 3, 32, 32))
        assert seen == [3, 12, 12]

    def test_time_steps_may_change(self):
        model = set_time_steps(self.make(readout='none', drop_path_rate=0.5), 5)
        assert get_time_steps(model) == 5
        assert model(torch.randn(3, 3, 32, 32))[0].shape[0] == 15

    def run(self, **kwargs):
        """A network, its outputs, the bytes that it kept for the backward pass."""
        torch.manual_seed(0)
        neuron = {'type': 'LIF', 'tau': 2.0, 'detach_reset': True, **kwargs.pop('neuron', {})}
        model = self.make(neuron=neuron, dtype=DOUBLE, **kwargs).train()
        kept = []
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: (kept.append(t.numel() * t.element_size()), t)[1], lambda t: t
        ):
            outs = model(torch.randn(3, 3, 64, 64, dtype=DOUBLE))
        sum((o * o).sum() for o in outs).backward()
        return model, outs, sum(kept)

    def check_equal(self, one, other, fewer=True):
        (a, outs, kept), (b, expected, before) = one, other
        assert not fewer or kept < before
        assert all(o.any() for o in expected)
        for x, y in zip(outs, expected):
            torch.testing.assert_close(x, y)
        assert a.state_dict().keys() == b.state_dict().keys()
        for (name, p), (_, q) in zip(a.named_parameters(), b.named_parameters()):
            assert p.grad is not None and q.grad is not None, name
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=1e-8, msg=name)
        for (name, p), (_, q) in zip(a.state_dict().items(), b.state_dict().items()):
            torch.testing.assert_close(p, q, msg=name)

    @pytest.mark.parametrize('kind', ['LIF', 'PLIF'])
    def test_fused_norm(self, kind, monkeypatch):
        monkeypatch.setattr('mmsnn.neurons.base.FUSE_FROM', 0)
        self.check_equal(self.run(neuron=dict(type=kind)), self.run(neuron=dict(type=kind, fuse_norm=False)))

    @pytest.mark.parametrize('settings', [dict(), dict(neuron=dict(type='ILIF'))], ids=['LIF', 'ILIF'])
    def test_packed_spikes(self, settings):
        # what is sums of spikes or analog would raise an error
        packed, plain = self.run(packed_spikes=True, **settings), self.run(**settings)
        assert any(isinstance(m, SpikeConv2d) for m in packed[0].modules())
        self.check_equal(packed, plain)

    def test_checkpointed(self):
        one, other = self.run(with_cp=True, norm_eval=True), self.run(norm_eval=True)
        self.check_equal(one, other)

    @pytest.mark.parametrize('train', [False, True])
    def test_every_parameter_learns(self, train):
        model = self.make(neuron=dict(type='PLIF', detach_reset=True)).double().train(train)
        sum((o * o).sum() for o in model(torch.randn(3, 3, 64, 64, dtype=DOUBLE))).backward()
        # in training, a bias in front of a norm, and a scale between two norms, cancel
        idle = self.cancelled(model) if train else set()
        assert idle < {n for n, _ in model.named_parameters()}
        lazy = [n for n, p in model.named_parameters() if n not in idle and not (p.grad.abs().max() > 1e-9)]
        assert not lazy

    def cancelled(self, model):
        """Parameters without an effect on the output in training."""
        convs = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.bias is not None}
        return {f'{n}.bias' for n in convs}

    @pytest.mark.parametrize('frozen', [-1, 0, 1])
    def test_frozen_stages(self, frozen):
        model = self.make(frozen_stages=frozen, neuron=dict(type='PLIF')).train()
        still = {id(m) for stage in model._stages()[: frozen + 1] for module in stage for m in module.modules()}
        parameters = {id(p) for stage in model._stages()[: frozen + 1] for m in stage for p in m.parameters()}
        assert bool(parameters) == (frozen >= 0)
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad is (id(parameter) not in parameters), name
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm):
                assert module.training is (id(module) not in still), name
        sum(o.sum() for o in model(torch.randn(3, 3, 32, 32))).backward()

    def test_norm_eval(self):
        model = self.make(norm_eval=True).train()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        model(torch.randn(3, 3, 32, 32))
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert model.training

    def test_drop_path(self):
        """Whole images, at every step, in training alone; the rate grows with depth from 0."""
        model = self.make(drop_path_rate=0.5, readout='none', norm_eval=True).double()
        plain = self.make(readout='none', norm_eval=True).double()
        plain.load_state_dict(model.state_dict())
        # one image five times over
        x = torch.randn(1, 3, 64, 64, dtype=DOUBLE).expand(5, -1, -1, -1)
        assert all(torch.equal(a, b) for a, b in zip(model.eval()(x), plain.eval()(x)))
        out, full = unfold(model.train()(x)[-1], 2), unfold(plain.train()(x)[-1], 2)
        same = [(out[:, i] == out[:, 0]).all() for i in range(1, 5)]
        assert not all(same) and (full == full[:, :1]).all()
        rates = [m.rate for m in model.modules() if type(m).__name__ == 'DropPath']
        assert rates == sorted(rates) and rates[-1] == 0.5
        # scaled branches are no integers, and must not be packed as such
        self.make(drop_path_rate=0.5, packed_spikes=True)(x.float()[:3])

    def test_attention_refuses_micro_steps(self):
        model = self.make(neuron=dict(type='ILIF'))
        with pytest.raises(ValueError, match="'MUL' multiplies spikes and cannot be expanded"):
            expand_levels(model)

    def test_default_neurons_are_the_releases(self):
        model = self.cls(self.arch)
        settings = {n: m.settings for n, m in model.named_modules() if hasattr(m, 'settings')}
        for name, values in settings.items():
            assert values.v_threshold == (0.5 if name.endswith('attn_lif') else 1.0), name
            rest = {k: getattr(values, k) for k in ('tau', 'decay_input', 'detach_reset', 'surrogate', 'v_reset')}
            assert rest == dict(tau=2.0, decay_input=True, detach_reset=True, surrogate='sigmoid', v_reset=0.0)
        assert sum(name.endswith('attn_lif') for name in settings) >= 2

    def test_attention_neuron(self):
        model = self.cls(self.arch, neuron=dict(type='LIF', tau=1.7), attn_neuron=dict(v_threshold=0.7, tau=3.0))
        for name, module in model.named_modules():
            if hasattr(module, 'settings'):
                own = name.endswith('attn_lif')
                assert (module.settings.v_threshold, module.settings.tau) == ((0.7, 3.0) if own else (1.0, 1.7))

    @pytest.mark.parametrize(
        'settings, match',
        [
            (dict(arch='9-9'), "backbone.arch must be one of .* or a dict, got '9-9'"),
            (dict(arch=dict(embed_dims=32)), 'backbone.arch as a dict takes .*num_layers.*, got embed_dims'),
            (dict(T=0), 'backbone.T must be at least 1'),
            (dict(out_indices=(9,)), r'backbone.out_indices must name stages 0 to \d, got \(9,\)'),
            (dict(out_indices=()), 'backbone.out_indices'),
            (dict(frozen_stages=9), r'backbone.frozen_stages must lie in -1 to \d, got 9'),
            (dict(drop_path_rate=1.0), r'backbone.drop_path_rate must lie in \[0, 1\), got 1.0'),
            (dict(num_heads=5), 'backbone.num_heads=5 does not divide the width'),
            (dict(readout='last'), 'readout must be one of mean, none'),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else '',
    )
    def test_errors(self, settings, match):
        with pytest.raises(ValueError, match=match):
            self.cls(**{'arch': self.arch, **settings})

    def test_freezing_random_stages_is_reported(self, monkeypatch):
        said = []
        monkeypatch.setattr('mmsnn.models.backbones.arguments.print_log', lambda text, **_: said.append(text))
        self.cls(self.arch, frozen_stages=0, init_cfg=dict(type='Pretrained', checkpoint='a.pth'))
        assert not said
        self.cls(self.arch, frozen_stages=0)
        assert 'frozen_stages=0 freezes randomly initialised stages' in said[0]
