"""Surrogates by SpikingJelly's names, and of one's own."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

import mmsnn
from mmsnn.models import SEWResNet
from mmsnn.neurons import ILIF, LIF
from mmsnn.ops import bn_lif, lif, reference
from mmsnn.ops.surrogates import ALIASES, ELSEWHERE, SURROGATES, _registered


@pytest.fixture(autouse=True)
def forget():
    before = dict(_registered)
    yield
    _registered.clear()
    _registered.update(before)


def gaussian(u, alpha):
    return alpha * torch.exp(-math.pi * (alpha * u).square())


def gradient(surrogate, **settings):
    x = torch.linspace(-1, 3, 24, dtype=torch.double).view(8, 3).requires_grad_()
    out = lif(x, 4, surrogate=surrogate, **{'tau': 1.7, **settings})
    return torch.autograd.grad(out, x, torch.linspace(-1, 2, 24, dtype=torch.double).view(8, 3))[0]


class TestAliases:
    @pytest.mark.parametrize('name', ALIASES)
    def test_mean_the_same(self, name):
        assert torch.equal(gradient(name), gradient(ALIASES[name]))
        assert torch.equal(gradient(name, alpha=3.0), gradient(ALIASES[name], alpha=3.0))

    @pytest.mark.parametrize('name', [name for name in ALIASES if name[0].isupper()])
    def test_as_in_spikingjelly(self, name):
        """Function and default of alpha."""
        theirs = pytest.importorskip('spikingjelly.activation_based.surrogate')
        u = torch.linspace(-2, 2, 41, dtype=torch.double, requires_grad=True)
        (expected,) = torch.autograd.grad(getattr(theirs, name)()(u).sum(), u)
        kind = ALIASES[name]
        torch.testing.assert_close(reference.surrogate_gradient(u.detach(), kind, SURROGATES[kind]), expected)

    def test_every_name_of_spikingjelly(self):
        theirs = pytest.importorskip('spikingjelly.activation_based.surrogate')
        base = theirs.SurrogateFunctionBase
        found = {k for k, v in vars(theirs).items() if isinstance(v, type) and issubclass(v, base) and v is not base}
        assert found <= {*ALIASES, *ELSEWHERE}

    @pytest.mark.parametrize(
        'name, match',
        [
            ('SuperSpike', "'SuperSpike' of SpikingJelly has no counterpart here: take one of triangle, atan"),
            ('Atan', "got 'Atan', did you mean 'atan'"),
            ('fast_sigmoid', 'registered with mmsnn.register_surrogate'),
        ],
    )
    def test_unknown(self, name, match):
        with pytest.raises(ValueError, match=match):
            LIF(surrogate=name)


class TestRegistered:
    def test_the_gradient_is_the_derivative(self):
        """One step of an IF neuron: the slope at x - 1."""
        mmsnn.register_surrogate('gaussian', gaussian, alpha=2.0)
        x = torch.linspace(-1, 3, 9, requires_grad=True)
        out = lif(x.view(1, 9), 1, tau=None, surrogate='gaussian')
        (grad,) = torch.autograd.grad(out.sum(), x)
        assert torch.equal(out[0].bool(), x >= 1)
        torch.testing.assert_close(grad, gaussian(x.detach() - 1, 2.0))
        (steep,) = torch.autograd.grad(lif(x.view(1, 9), 1, tau=None, surrogate='gaussian', alpha=5.0).sum(), x)
        torch.testing.assert_close(steep, gaussian(x.detach() - 1, 5.0))

    @pytest.mark.parametrize(
        'settings',
        [
            dict(),
            dict(v_reset=None, detach_reset=True, decay_input=False),
            dict(v_reset=None, levels=3),
        ],
    )
    def test_a_copy_of_ours_is_ours(self, settings):
        mmsnn.register_surrogate('mine', lambda u, alpha: reference.surrogate_gradient(u, 'atan', alpha), alpha=2.0)
        torch.testing.assert_close(gradient('mine', **settings), gradient('atan', **settings))
        x = torch.randn(8, 3, 5, dtype=torch.double)
        norm = dict(running_mean=None, running_var=None, training=True, weight=torch.rand(3).double())
        ours, mine = (bn_lif(x, 4, **norm, surrogate=s, **settings, return_v=True) for s in ('atan', 'mine'))
        for a, b in zip(ours, mine):
            torch.testing.assert_close(a, b)

    def test_in_a_network(self, monkeypatch):
        """Copied, pickled, compiled; norms stay apart; a checkpoint holds nothing of it."""
        monkeypatch.setattr('mmsnn.neurons.base.FUSE_FROM', 0)
        mmsnn.register_surrogate('gaussian', gaussian)
        neuron = dict(type='LIF', surrogate='gaussian', alpha=0.7, v_threshold=0.1)
        small = dict(num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,))
        model = SEWResNet(18, T=2, base_channels=8, neuron=neuron, **small)
        plain = SEWResNet(18, T=2, base_channels=8, neuron={**neuron, 'surrogate': 'atan'}, **small)
        assert not model.neuron1.can_fuse(nn.BatchNorm2d(8)) and plain.neuron1.can_fuse(nn.BatchNorm2d(8))
        plain.load_state_dict(model.state_dict())
        x = torch.randn(3, 3, 32, 32)
        grads = []
        for each in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), plain):
            out = each(x)[0]
            out.square().sum().backward()
            grads.append(each.conv1.weight.grad)
        assert torch.equal(grads[0], grads[1]) and torch.equal(grads[0], grads[2]) and grads[0].any()
        assert not torch.allclose(grads[0], grads[3])
        torch.compiler.reset()
        compiled = torch.compile(model.eval(), backend='aot_eager', fullgraph=True)(x)[0]
        assert torch.equal(compiled, model(x)[0])

    def test_integers(self):
        mmsnn.register_surrogate('gaussian', gaussian)
        x = torch.tensor([[0.2, 1.4, 2.6]], requires_grad=True)
        out = ILIF(T=1, levels=2, surrogate='gaussian')(x)
        out.sum().backward()
        assert out.tolist() == [[0, 1, 2]]
        steps = sum(gaussian(x.detach() - k, 1.0) for k in (0.5, 1.5))
        torch.testing.assert_close(x.grad, steps)

    @pytest.mark.parametrize(
        'name, derivative, error, match',
        [
            ('atan', gaussian, ValueError, "'atan' is the name of a function of mmsnn or SpikingJelly"),
            ('Erf', gaussian, ValueError, "'Erf' is the name of a function of mmsnn or SpikingJelly"),
            (3, gaussian, TypeError, 'must be text, got 3'),
            ('a', lambda u: u, TypeError, r"'a': derivative\(u, alpha\) takes a tensor and a number"),
            ('a', 'atan', TypeError, r"'a': derivative\(u, alpha\) takes a tensor and a number"),
            ('a', lambda u, alpha: 1.0, TypeError, 'must give a floating-point tensor, got float'),
            ('a', lambda u, alpha: u > 0, TypeError, 'must give a floating-point tensor, got torch.bool'),
            ('a', lambda u, alpha: u.sum(), ValueError, r'one number for each of u \(2, 5\), got \(\)'),
            ('a', lambda u, alpha: u.log(), ValueError, 'is not finite between u=-2 and u=2'),
        ],
    )
    def test_errors(self, name, derivative, error, match):
        with pytest.raises(error, match=match):
            mmsnn.register_surrogate(name, derivative)
        with pytest.raises((ValueError, TypeError)):
            LIF(surrogate='a')

    def test_alpha(self):
        for alpha, error in ((0, ValueError), (math.inf, ValueError), ('1', TypeError), (True, TypeError)):
            with pytest.raises(error, match="'a': alpha must be"):
                mmsnn.register_surrogate('a', gaussian, alpha=alpha)

    def test_a_name_twice(self):
        mmsnn.register_surrogate('a', gaussian)
        mmsnn.register_surrogate('a', gaussian)
        with pytest.raises(ValueError, match="'a' is registered already: choose another name, or set replace=True"):
            mmsnn.register_surrogate('a', lambda u, alpha: torch.zeros_like(u))
        mmsnn.register_surrogate('a', lambda u, alpha: torch.zeros_like(u), replace=True)
        assert not gradient('a').any()
