"""Changes in place on events: they reach the tensor and its views, and nothing that was computed before."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mmsnn
from mmsnn.inference.engine import Engine
from mmsnn.inference.lazy import Lazy
from mmsnn.neurons import LIF

T = 2


class Net(nn.Module):
    """Two neurons, two convolutions, and ``run`` between them."""

    def __init__(self, run):
        super().__init__()
        self.n1, self.n2, self.run = LIF(T), LIF(T), run
        self.conv, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        a = self.n1(x)
        # on events it must be a lazy tensor, or this would test nothing
        assert isinstance(a, Lazy) == (self.n1.events is not None)
        return self.run(self, a)


def scaled_after_conv(net, a):
    y = net.conv(a)
    a.mul_(3)
    return net.n2(y * 4 + 1), a


def current_scaled_after_conv(net, a):
    b = net.conv(a)
    z = net.conv2(b)
    b.mul_(-1)
    return net.n2(z), net.n2(b)


def current_scaled_after_sum(net, a):
    b = net.conv(a)
    z = net.conv2(a) + b
    b.mul_(-1)
    return net.n2(z * 3), b


def activation_in_place(net, a):
    b = a - 0.5
    F.hardswish(a, inplace=True)
    return net.n2(net.conv(a) * 4), a, b


def activation_in_place_after_conv(net, a):
    y = net.conv(a)
    F.leaky_relu(a, 0.1, True)
    a -= 2
    return net.n2(y * 4), a


def module_in_place(net, a):
    b = net.conv(a)
    y = net.conv2(b)
    b = nn.Hardswish(inplace=True)(b)
    return net.n2(y * 4), net.n2(b * 4)


def view_changed(net, a):
    y = net.conv(a)
    v = a.view(T, -1, 4, 6, 6)
    v[0].mul_(-2)
    return net.n2(y * 4), a, v, net.n2(net.conv2(a) * 4)


def base_changed(net, a):
    v = a.transpose(1, 2)
    w = a[:, 1:3]
    a.add_(1.5)
    return net.n2(net.conv(v.transpose(1, 2)) * 4), a, v, w


def base_changed_by_spikes(net, a):
    v, b = a.flatten(2), net.n2(net.conv(a) * 4)
    a += b
    return a, v, b


def view_of_a_view_changed(net, a):
    v = a.flatten(2)
    w = v.narrow(1, 1, 2)
    y = net.conv(a)
    w.zero_()
    y = net.n2(y * 4)
    v.add_(1)
    return a, v, w, y


def numbers_changed(net, a):
    """Views that are no lazy tensors."""
    u, b = a.unfold(2, 3, 1), net.conv(a)
    v = b.view(T, -1, 4, 6, 6)
    z = net.conv2(a) + b
    u[..., 0].fill_(-1)
    v[0].mul_(2)
    return net.n2(z * 4), net.n2(b), a, u


def current_changed_after_view(net, a):
    b = net.conv(a)
    v = b.view(T, -1, 4, 6, 6)
    b += a
    return v, net.n2(b)


def items_set(net, a):
    y = net.conv(a)
    a[:, 0] = 7.0
    b = net.conv2(y)
    y[0] = 1.0
    return net.n2(b), net.n2(y), a


def written_by_out(net, a):
    y, b = net.conv(a), net.n2(net.conv2(a) * 4)
    torch.add(a, 2, out=b)
    torch._foreach_mul_([a], 3.0)
    return net.n2(y * 4), a, b


def sums_twice(net, a):
    b = net.conv(a)
    b += a
    c = net.conv2(b)
    b += a
    b += 1
    return net.n2(c), net.n2(b)


def sum_and_conv_then_changed(net, a):
    b = net.conv(a)
    z, w = net.conv2(a) + b, net.conv2(b)
    b.mul_(-1)
    return net.n2(z * 3), net.n2(w * 3), b


def plain_tensor_changed_after_sum(net, a):
    shortcut = torch.ones(2 * T, 4, 6, 6)
    y = net.conv(a) + shortcut
    shortcut.mul_(2)
    return net.n2(y * 2), shortcut


def plain_alias_and_lazy_view(net, a):
    v, u = a.flatten(2), a.to(torch.float32)
    u.mul_(3)
    w = a.unfold(2, 3, 1)
    w[..., 0].fill_(-1)
    return a, v, u, net.n2(net.conv(a) * 4)


def alias_of_a_copied_tensor(net, a):
    """A sum watches the alias too; the tensor stays changed."""
    v, u = a.flatten(2), a.unfold(2, 6, 1)
    a.add_(1)
    y = net.conv(a) + u[:, :, 0].transpose(2, 3)
    return a, v, net.n2(y), net.n2(net.conv2(a))


def other_doors(net, a):
    v = a.view(T, -1, 4, 6, 6)
    torch.exp_(input=a)
    torch.ops.aten.mul_.Tensor(a, 3.0)
    a.data.add_(1)
    y = net.conv(a)
    numbers = a.detach().numpy()
    z = net.conv2(a)
    numbers *= 2
    return a, v, net.n2(y), net.n2(z)


@torch.jit.script
def scripted(a: torch.Tensor, b: torch.Tensor):
    a.mul_(3.0)
    return torch.add(a, 1.0, out=b)


def changed_by_a_script(net, a):
    v, b = a.view(T, -1, 4, 6, 6), net.conv(a)
    y = net.conv2(b)
    scripted(a, b)
    return a, v, b, net.n2(y * 4)


def moved_in_place(net, a):
    b = net.conv(a)
    b.transpose_(0, 1)
    a.unsqueeze_(0)
    return a, b, b.shape == (4, 2 * T, 6, 6), a.dim() == 5


def other_memory(net, a):
    v, b = a.flatten(1), net.conv(a)
    a.data = b * 2
    return a, v, net.n2(net.conv2(a))


def flattened_after_conv(net, a):
    """Spikes and currents whose bytes lie channels last."""
    b = net.conv(a)
    s = net.n2(b * 4)
    v, w, u = s.flatten(1), s.view(s.shape[0], -1), b.view(b.shape[0], -1)
    v.mul_(3)
    u[:, 0] = 2
    return s, v, w, u, b, net.n2(net.conv2(s))


CASES = [each for name, each in list(globals().items()) if getattr(each, '__code__', None) and name != 'Net']


@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize('run', CASES, ids=lambda f: f.__name__)
def test_as_in_the_dense_network(run, mode):
    for seed in range(3):
        torch.manual_seed(seed)
        dense = Net(run).eval()
        events = mmsnn.event_driven(copy.deepcopy(dense), engine='event')
        x = torch.randn(2 * T, 4, 6, 6) * 2
        with mode():
            expected, got = dense(x), events(x)
        for a, b in zip(expected, got, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
            assert not isinstance(a, torch.Tensor) or a.stride() == b.stride()


def test_each_convolution_runs_once(monkeypatch):
    """Also where its numbers were changed after a sum has taken them."""
    runs, run = [], Engine._run
    monkeypatch.setattr(Engine, '_run', lambda *args: runs.append(args) or run(*args))
    events = mmsnn.event_driven(Net(current_scaled_after_sum).eval(), engine='event')
    with torch.no_grad():
        events(torch.randn(2 * T, 4, 6, 6))
    assert len(runs) == 2


@pytest.mark.parametrize('own', [True, False], ids=['memory of torch', 'memory of numpy'])
def test_a_changed_image(own):
    """The network reads what it has written, and what it has noted before stays as it was."""

    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.time, self.conv, self.n = mmsnn.layers.DirectEncoder(T), nn.Conv2d(3, 4, 3), LIF(T)

        def forward(self, x):
            if self.n.events is not None:
                x = self.n.events.enter(x)
                assert isinstance(x, Lazy)
            y = self.conv(self.time(x))
            x = x.mul_(2)
            return self.n(y * 3), self.n(self.conv(self.time(x)))

    dense = First().eval()
    events = mmsnn.event_driven(copy.deepcopy(dense), engine='event')
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        expected = dense(x.clone())
        given = x.clone() if own else torch.from_numpy(x.numpy().copy())
        got = events(given)
    torch.testing.assert_close(got, expected)
    # a copy is changed where PyTorch cannot watch the memory
    assert torch.equal(given, x * 2 if own else x)


def test_weights_that_go_are_not_kept():
    """Neither those of a layer that makes its weights in every pass, nor those that a checkpoint has replaced."""
    made = []

    def run(net, a):
        weight = net.conv.weight * 2
        made.append(weakref.ref(weight))
        return net.n2(F.batch_norm(F.conv2d(a, weight, padding=1), *net.statistics, eps=1e-3)), net.n2(net.conv2(a))

    net = Net(run).eval()
    net.statistics = torch.zeros(4), torch.ones(4)
    events = mmsnn.event_driven(net, engine='event')
    with torch.no_grad():
        for _ in range(3):
            events(torch.randn(2 * T, 4, 6, 6))
        old = weakref.ref(net.conv2.weight)
        events.load_state_dict({k: v.clone() for k, v in events.state_dict().items()}, assign=True)
        events(torch.randn(2 * T, 4, 6, 6))
    gc.collect()
    assert old() is None and not any(ref() is not None for ref in made)
