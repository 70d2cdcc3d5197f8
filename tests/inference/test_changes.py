"""What else may happen around an event-driven network: weights that change at odd moments, threads, odd arguments."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import mmsnn
from mmsnn.inference import choice
from mmsnn.inference.choice import ALL, DENSE, EVENT, Timing
from mmsnn.inference.weights import samples
from mmsnn.models import SEWResNet
from mmsnn.neurons import IF


def network(kernel=3, middle=8):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, middle, 3, padding=1), IF(2, v_threshold=0.3), nn.Conv2d(middle, 8, kernel, padding=kernel // 2),
        nn.BatchNorm2d(8), IF(2, v_threshold=0.1),
    ).eval()  # fmt: skip


def on_events(net):
    return mmsnn.event_driven(copy.deepcopy(net), engine='event')


X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_hooks_that_exchange_weights_are_refused():
    """The convolution would run after they are back."""
    net = network()
    fast = on_events(net)
    for one in (net, fast):
        one[2].register_forward_pre_hook(lambda module, args: _neg(module))
        one[2].register_forward_hook(lambda module, args, out: _neg(module))
    net(X)
    with pytest.raises(RuntimeError, match='changed after it was called.*enabled=False'):
        fast(X)


def _neg(module):
    module.weight.neg_()


@torch.no_grad()
def test_a_map_that_was_kept_is_not_made_of_later_weights():
    fast, kept = on_events(network()), []
    handle = fast[2].register_forward_hook(lambda module, args, out: kept.append(out))
    fast(X)
    handle.remove()
    fast[2].weight.zero_()
    with pytest.raises(RuntimeError, match='read the result first'):
        kept[0].mean()


@torch.no_grad()
@pytest.mark.parametrize('kernel', [1, 3, 5])
@pytest.mark.parametrize(
    'edit',
    [
        lambda w: w[:, 2 : len(w[0]) // 2 : 2].zero_(),
        lambda w: w[:, 7].mul_(3),
        lambda w: w[5].mul_(3),
        lambda w: w[..., -1, -1].mul_(3),
        lambda w: w[..., w.shape[2] // 2, w.shape[3] // 2 :].mul_(3),
        lambda w: w.mul_(w.abs() > w.abs().flatten().kthvalue(w.numel() // 50).values),
    ],
    ids=['half of the channels', 'a channel', 'a filter', 'a corner', 'a part of a row', 'the smallest fiftieth'],
)
@pytest.mark.parametrize('middle', [16, 64, 256])
def test_pruning_through_data_is_noticed(kernel, edit, middle):
    net = network(kernel, middle)
    net[2] = nn.Conv2d(middle, 64, kernel, padding=kernel // 2)
    net[3] = nn.BatchNorm2d(64).eval()
    fast = on_events(net)
    fast(X)
    for one in (net, fast):
        edit(one[2].weight.data)
    # the same weights, folded for the first time, are the same numbers
    assert torch.equal(fast(X), on_events(net)(X))


@pytest.mark.parametrize(
    'shape',
    [(64, 64, 3, 3), (512, 512, 3, 3), (64, 256, 1, 1), (8, 8, 3, 3), (1, 1, 1, 1), (64, 1, 3, 3), (100, 60, 7, 1)],
)
def test_samples_do_not_return_to_the_same_places(shape):
    weight = torch.empty(shape)
    looked = torch.arange(0, weight.numel(), max(1, weight.numel() // samples(shape)))
    for dim, places in enumerate(torch.unravel_index(looked, shape)):
        assert len(places.unique()) == shape[dim]
    last = weight.permute(0, 2, 3, 1).shape
    for dim, places in enumerate(torch.unravel_index(looked, last)):
        assert len(places.unique()) == last[dim]


def test_threads_that_call_at_once():
    torch.manual_seed(0)
    net = SEWResNet(18, T=2, base_channels=4, stem_channels=4).eval()
    wanted = net(X)[0].detach()
    mmsnn.event_driven(net)

    @torch.no_grad()
    def run(_):
        return net(X)[0]

    with ThreadPoolExecutor(8) as pool:
        for out in pool.map(run, range(32)):
            torch.testing.assert_close(out, wanted)


def test_one_way_alone_decides_nothing():
    """Threads may all take the same one."""
    timing = Timing()
    for _ in range(len(choice.TRIALS)):
        timing.note(EVENT, 1.0)
    for other in (ALL, DENSE):
        assert timing.way is None and timing.next() == other
        timing.note(other, 0.5 if other == DENSE else 2.0)
    assert timing.way == timing.next() == DENSE


@torch.no_grad()
@pytest.mark.parametrize(
    'function',
    [
        lambda s: s.sum(1, dtype=None),
        lambda s: torch.mean(s, 1, dtype=None),
        lambda s: torch.sum(input=s, dim=1),
        lambda s: torch.mean(input=s, dim=(2, 3)),
        lambda s: torch.rsub(input=s, other=1),
        lambda s: s.mean(0),
        lambda s: s.unflatten(0, (2, 2)).mean(0),
        lambda s: s.unflatten(0, (2, 2)).sum(0),
    ],
)
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_arguments_of_functions_of_spikes(function, memory_format):
    x = X.to(memory_format=memory_format)
    net = nn.Sequential(*network()[:2], Apply(function)).eval()
    wanted, out = net(x), on_events(net)(x)
    assert out.dtype == wanted.dtype and out.stride() == wanted.stride()
    torch.testing.assert_close(out, wanted)


@torch.no_grad()
@pytest.mark.parametrize('factor', [torch.tensor(1j), float('inf'), torch.tensor(float('nan'))])
def test_factors_that_are_no_numbers(factor):
    net = nn.Sequential(*network()[:3], Apply(lambda current: current * factor)).eval()
    torch.testing.assert_close(on_events(net)(X), net(X), equal_nan=True)


class Apply(nn.Module):
    """A function within a network, where maps are events."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)
