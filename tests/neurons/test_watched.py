"""A watched norm or neuron: apart while it is watched, in a graph that activation checkpointing takes for one op."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmsnn.neurons import LIF, PLIF

T = 2


@pytest.fixture(autouse=True)
def small_maps_too(monkeypatch):
    monkeypatch.setattr('mmsnn.neurons.base.FUSE_FROM', 0)


class Net(nn.Module):
    def __init__(self, kind, sequence: bool):
        super().__init__()
        self.first, conv, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.layers = nn.Sequential(conv, self.norm)
        self.neuron, self.sequence = kind(T, v_threshold=0.5), sequence

    def part(self, x):
        x = torch.sin(self.first(x))
        if self.sequence:
            x = self.neuron.after_norm(self.layers, x)
        else:
            x = self.neuron.after_norm(self.norm, self.layers[0](x))
        return x * torch.cos(x) + x

    def forward(self, x, checkpointed=True):
        return checkpoint(self.part, x, use_reentrant=False) if checkpointed else self.part(x)


def watch(net, where, seen):
    # of the sequence a copy alone: checkpointing counts what its hooks save
    keep = (lambda out: out.clone()) if where == 'layers' else (lambda out: out.square().sum())
    return getattr(net, where).register_forward_hook(lambda module, inputs, out: seen.append(keep(out)))


@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize('kind, where', [(LIF, 'norm'), (LIF, 'layers'), (LIF, 'neuron'), (PLIF, 'norm')])
def test_watchers_come_and_go(kind, where, train):
    """Between the forward and the backward pass, and between two forwards that share a backward pass."""
    torch.manual_seed(0)
    net = Net(kind, sequence=where == 'layers').double().train(train)
    x = torch.randn(4, 3, 9, 9, dtype=torch.double, requires_grad=True)
    seed = torch.randn(4, 4, 5, 5, dtype=torch.double)

    def gradients(forwards, backward, checkpointed=True):
        net.zero_grad()
        x.grad, seen, loss = None, [], 0
        for watched in forwards:
            handle = watch(net, where, seen) if watched else None
            loss = loss + (net(x, checkpointed) * seed).sum()
            if watched:
                handle.remove()
                assert len(seen) == 1
        handle = watch(net, where, seen) if backward else None
        loss.backward()
        if handle is not None:
            handle.remove()
        return [x.grad, *(p.grad for p in net.parameters())]

    for forwards in ([False], [True], [True, False], [False, True]):
        expected = gradients([False] * len(forwards), False, checkpointed=False)
        expected = [grad.clone() for grad in expected]
        assert all(grad.abs().sum() > 0 for grad in expected[:-1])
        for backward in (False, True):
            for got, grad in zip(gradients(forwards, backward), expected):
                torch.testing.assert_close(got, grad, rtol=1e-10, atol=1e-10)


def test_only_while_it_is_watched():
    norm, neuron = nn.BatchNorm2d(3), LIF(T)
    for module, kwargs in itertools.product((norm, neuron), (dict(), dict(with_kwargs=True))):
        handle = module.register_forward_hook(lambda *args: None, **kwargs)
        # a neuron's hook that takes keyword arguments is given the norm
        assert neuron.can_fuse(norm) is (module is neuron and bool(kwargs))
        handle.remove()
        assert neuron.can_fuse(norm) and neuron.fuse_norm


def test_a_hook_sees_what_the_neuron_integrates():
    """The textbook way to potentials."""
    torch.manual_seed(0)
    norm, neuron, found = nn.BatchNorm2d(3), LIF(T), []
    nn.init.constant_(norm.bias, 1.0)
    x = 3 * torch.randn(4, 3, 5, 5) + 2
    expected = nn.BatchNorm2d(3)
    nn.init.constant_(expected.bias, 1.0)
    neuron.register_forward_hook(lambda module, inputs, out: found.append(module.potentials(inputs[0], out)))
    neuron.after_norm(norm, x)
    torch.testing.assert_close(found[0][:2], expected(x)[:2] / 2)


def test_a_value_that_a_hook_overwrites():
    norm, neuron = nn.BatchNorm2d(3), LIF(T)

    def overwrite(module, inputs, out):
        inputs[0].add_(1)

    handle = norm.register_forward_hook(overwrite)
    out = neuron.after_norm(norm, torch.randn(4, 3, 5, 5, requires_grad=True) * 1)
    handle.remove()
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        out.sum().backward()


def test_statistics_that_a_later_forward_updates():
    """As with torch's batch norm alone, whose graphs stay valid; maps of two sizes, so one op and two."""
    norm, neuron = nn.BatchNorm2d(3), LIF(T, fuse_norm=False)
    loss = neuron.after_norm(norm, torch.randn(4, 3, 5, 5, requires_grad=True)).sum()
    neuron.fuse_norm = True
    neuron.after_norm(norm, torch.randn(4, 3, 5, 5))
    loss.backward()


def test_a_sequence_that_does_more_is_called():
    """after_norm takes apart what runs one layer after the other, and nothing else."""

    class Residual(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    torch.manual_seed(0)
    layers, x = Residual(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)).eval(), torch.randn(4, 4, 5, 5)
    neuron = LIF(2)
    assert torch.equal(neuron.after_norm(layers, x), LIF(2)(layers(x)))
