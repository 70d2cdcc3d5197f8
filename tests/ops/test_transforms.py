"""`torch.func` and forward-mode differentiation of spikes, whose derivative is the surrogate."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import nn
from torch.func import functional_call, grad, jvp, vmap

from mmsnn.layers import SpikeConv2d
from mmsnn.models import SEWResNet
from mmsnn.neurons import ILIF, LIF, PLIF
from mmsnn.ops import lif, reference

T, B = 2, 3
NEURONS = [
    lambda: LIF(T, tau=1.7),
    lambda: LIF(T, v_reset=None, detach_reset=True, surrogate='sigmoid'),
    lambda: PLIF(T, init_tau=1.7),
    lambda: ILIF(T, levels=2),
]


@pytest.fixture(params=NEURONS)
def net(request):
    torch.manual_seed(0)
    layers = [nn.Linear(5, 6), request.param(), nn.Linear(6, 3), request.param(), nn.Linear(3, 2)]
    for layer in (layers[0], layers[2]):
        nn.init.constant_(layer.bias, 1.5)
    return nn.Sequential(*layers).double()


def loss(net):
    return lambda params, x: functional_call(net, params, (x,)).square().sum()


def expected(net, x):
    net.zero_grad()
    net(x).square().sum().backward()
    return {name: p.grad.clone() for name, p in net.named_parameters()}


def test_grad(net):
    x = 2 * torch.randn(T * B, 5, dtype=torch.double)
    got = grad(loss(net))(dict(net.named_parameters()), x)
    for name, value in expected(net, x).items():
        assert value.any()
        torch.testing.assert_close(got[name], value)


def test_per_sample_gradients(net):
    """Of each image of a batch, as differential privacy clips them."""
    x = 2 * torch.randn(T, B, 5, dtype=torch.double)
    got = vmap(grad(loss(net)), (None, 1))(dict(net.named_parameters()), x)
    for i in range(B):
        for name, value in expected(net, x[:, i]).items():
            torch.testing.assert_close(got[name][i], value)


def test_forward_mode(net):
    """The tangent agrees with the gradient."""
    x, tangent = 2 * torch.randn(T * B, 5, dtype=torch.double), torch.randn(T * B, 5, dtype=torch.double)
    leaf = x.clone().requires_grad_()
    out = net(leaf)
    cotangent = torch.randn_like(out)
    (gradient,) = torch.autograd.grad(out, leaf, cotangent)
    value, pushed = jvp(net, (x,), (tangent,))
    assert torch.equal(value, out) and (pushed * cotangent).any()
    torch.testing.assert_close((pushed * cotangent).sum(), (gradient * tangent).sum())
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(net(forward_ad.make_dual(x, tangent)))
    torch.testing.assert_close(dual.tangent, pushed)


@pytest.mark.parametrize('surrogate', ['atan', 'sigmoid', 'triangle'])
def test_second_derivatives(surrogate):
    """Of one neuron of one step they are those of the surrogate's integral, for a loss that is linear in the spikes."""
    torch.manual_seed(0)
    x, weight = torch.randn(1, 4, dtype=torch.double), torch.randn(1, 4, dtype=torch.double)
    keywords = dict(T=1, tau=1.7, surrogate=surrogate)
    found = torch.func.hessian(lambda x: (lif(x, **keywords) * weight).sum())(x)
    smooth = torch.autograd.functional.hessian(
        lambda x: (reference.lif(x, **keywords, smooth=True) * weight).sum(), x, strict=True
    )
    assert found.any()
    torch.testing.assert_close(found, smooth)


def test_a_backbone(monkeypatch):
    """Norms and neurons that would run as one op, and packed spikes."""
    monkeypatch.setattr('mmsnn.neurons.base.FUSE_FROM', 0)
    torch.manual_seed(0)
    small = dict(num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,), packed_spikes=True)
    model = SEWResNet(18, T=T, base_channels=4, neuron=dict(type='LIF', v_threshold=0.1), **small).double().eval()
    assert any(isinstance(m, SpikeConv2d) for m in model.modules())
    x = torch.randn(B, 3, 32, 32, dtype=torch.double)

    def square(params, x):
        return functional_call(model, params, (x.unsqueeze(0),))[0].square().sum()

    got = vmap(grad(square), (None, 0))(dict(model.named_parameters()), x)
    model.zero_grad()
    model(x)[0].square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad.any()
        torch.testing.assert_close(got[name].sum(0), p.grad)
