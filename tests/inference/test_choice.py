"""engine='auto' keeps a network to the fastest way: all on events, those that promise to pay, or densely."""

import copy
import pickle
import threading

import pytest
import torch

import mmsnn
from mmsnn.inference import choice
from mmsnn.inference.choice import AGAIN, ALL, DENSE, EVENT, TRIALS, WAYS, Choice
from mmsnn.inference.switch import engine_of
from mmsnn.models import SEWResNet


class Clock:
    """Time passes only when a network says which way it ran."""

    def __init__(self, **costs: float):
        self.now, self.costs, self.ways = 0.0, costs, []

    def perf_counter(self) -> float:
        return self.now

    def ran(self, way: str) -> None:
        self.ways.append(way)
        self.now += self.costs[way]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock(event=1.0, all=3.0, dense=2.0)
    monkeypatch.setattr(choice, 'time', clock)
    return clock


def network(clock, **settings):
    torch.manual_seed(0)
    net = SEWResNet(18, T=2, base_channels=4, stem_channels=4).eval()
    mmsnn.event_driven(net, **settings)

    def ran(module, args, out):
        # it runs on events if the engine makes the spikes
        whole = engine_of(net).whole
        clock.ran(DENSE if type(out) is torch.Tensor else whole.way if whole else EVENT)

    net.neuron1.register_forward_hook(ran)
    return net


def test_other_time_steps_are_timed_anew(clock):
    """Fewer steps have fewer spikes to save."""
    net, x = network(clock), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        for T in (2, 1, 2):
            clock.costs[EVENT] = T / 2
            clock.costs[DENSE] = 0.75
            mmsnn.set_time_steps(net, T)
            for _ in range(len(TRIALS) + 2):
                net(x)
    assert clock.ways == [*TRIALS, DENSE, DENSE, *TRIALS, EVENT, EVENT, *[DENSE] * (len(TRIALS) + 2)]


@pytest.mark.parametrize('faster', WAYS)
def test_the_fastest_way_stays(clock, faster):
    clock.costs[faster] = 0.5
    net, x = network(clock), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        outs = [net(x) for _ in range(len(TRIALS) + 6)]
    assert clock.ways == [*TRIALS, *[faster] * 6]
    for out in outs[1:]:
        for a, b in zip(out, outs[0]):
            assert type(a) is torch.Tensor
            torch.testing.assert_close(a, b)
    (timing,) = mmsnn.event_report(net).timings
    assert timing.way == faster and timing.seconds == clock.costs


def test_each_size_has_its_own(clock):
    net = network(clock)
    with torch.no_grad():
        for _ in range(len(TRIALS) + 1):
            net(torch.rand(1, 3, 32, 32))
        clock.costs[DENSE] = 0.1
        for _ in range(len(TRIALS) + 1):
            net(torch.rand(1, 3, 64, 64))
            net(torch.rand(8, 3, 32, 32))
        assert [t.way for t in mmsnn.event_report(net).timings] == [EVENT, DENSE, DENSE]
        clock.ways.clear()
        net(torch.rand(1, 3, 33, 33))
    assert clock.ways == [EVENT]


def test_it_is_asked_again(clock):
    whole = Choice()
    x = torch.rand(1, 3, 8, 8)

    def call() -> str:
        whole.begin(whole.timing([x], 1))
        way = whole.way
        clock.now += clock.costs[way]
        whole.end()
        return way

    assert {call() for _ in range(AGAIN)} == {*WAYS}
    clock.costs[EVENT] = 3.0
    assert [call() for _ in TRIALS] == list(TRIALS)
    assert call() == DENSE


def test_no_choice_elsewhere(clock):
    """All on events if the user says so; and nothing is timed in training or with gradients."""
    net, x = network(clock, engine='event'), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        for _ in TRIALS:
            net(x)
    assert set(clock.ways) == {EVENT} and not mmsnn.event_report(net).timings
    net = network(clock)
    for _ in TRIALS:
        net(x)
    with torch.no_grad():
        for _ in TRIALS:
            net.train()(x)
    assert not mmsnn.event_report(net).timings
    assert set(clock.ways[len(TRIALS) :]) == {DENSE}


def test_copies_and_removal(clock):
    net, x = network(clock), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        for _ in TRIALS:
            net(x)
    mmsnn.event_driven(net, enabled=False)
    assert not net._forward_pre_hooks and not net._forward_pre_hooks_with_kwargs
    fresh = SEWResNet(18, T=2, base_channels=4, stem_channels=4).eval()
    mmsnn.event_driven(mmsnn.event_driven(fresh))
    assert len(fresh._forward_pre_hooks) == len(fresh._forward_hooks) == 1
    for other in (copy.deepcopy(fresh), pickle.loads(pickle.dumps(fresh))):
        with torch.no_grad():
            for _ in TRIALS:
                other(x)
        assert len(mmsnn.event_report(other).timings) == 1
    assert not mmsnn.event_report(fresh).timings


def test_threads_choose_for_themselves():
    """What one thread times does not send another one's call the other way."""
    whole, ways = Choice(), []
    whole.begin(whole.timing([torch.rand(1, 3, 8, 8)], 1))
    whole.end()
    whole.begin(whole.timing([torch.rand(1, 3, 8, 8)], 1))
    thread = threading.Thread(target=lambda: ways.append(whole.way))
    thread.start()
    thread.join()
    assert whole.way == TRIALS[1] and ways == [EVENT]


@pytest.mark.parametrize('fastest', WAYS)
def test_the_report_is_of_the_way_that_was_chosen(clock, fastest, monkeypatch):
    """What the other ways do in their trials does not mix with it; all on events means all, promising or not."""
    monkeypatch.setattr('mmsnn.inference.engine.pays', lambda plan, events: False)
    clock.costs[fastest] = 0.1
    net, x = network(clock), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        net(x)
        before = mmsnn.event_report(net)
        assert before and not any(counts.on_events for counts in before.values())
        for _ in TRIALS[1:]:
            net(x)
    report = mmsnn.event_report(net)
    assert report.timings[0].way == fastest
    spiking = [counts for counts in report.values() if counts.density is not None]
    assert spiking and {counts.how for counts in spiking} == {'event' if fastest == ALL else 'dense'}
