"""Weights of loss terms over a training."""

import math

import pytest

from mmsnn.distill import Progress, Schedule


def at(schedule, by, *positions):
    return [schedule(Progress(**{by: position})) for position in positions]


def test_whether_it_varies():
    assert not Schedule.of(0.5).varies
    assert Schedule.of(dict(stop=3)).varies and Schedule('step', values=[1, 2], milestones=[3]).varies


def test_number():
    assert at(Schedule.of(0.5), 'iter', 0, 7, 10**6) == [0.5] * 3
    assert at(Schedule.of(0), 'epoch', 0, 3) == [0.0, 0.0]


@pytest.mark.parametrize('by', ['epoch', 'iter', 'iter_in_epoch'])
def test_step(by):
    schedule = Schedule('step', values=[3, 2, 1], milestones=[2, 5], by=by)
    assert at(schedule, by, 0, 1, 2, 4, 5, 100) == [3, 3, 2, 2, 1, 1]
    others = {'epoch', 'iter', 'iter_in_epoch'} - {by}
    assert schedule(Progress(**{other: 100 for other in others})) == 3


def test_sakd_as_intended():
    """beta = 10 for the first 10 epochs, then 0.01."""
    beta = Schedule.of(dict(kind='step', values=[10, 0.01], milestones=[10]))
    assert at(beta, 'epoch', 0, 9, 10, 119) == [10, 10, 0.01, 0.01]


def test_sakd_as_released():
    """The released code switches on the iteration's index: 10 for the first 11 iterations of every epoch."""
    beta = Schedule.of(dict(kind='step', values=[10, 0.01], milestones=[11], by='iter_in_epoch'))
    per_epoch = [[beta(Progress(epoch, epoch * 20 + i, i)) for i in range(20)] for epoch in range(3)]
    assert per_epoch == [[10] * 11 + [0.01] * 9] * 3


def test_linear():
    schedule = Schedule('linear', values=[1.0, 0.2], milestones=[2, 6])
    assert at(schedule, 'epoch', 0, 2, 3, 4, 6, 9) == pytest.approx([1.0, 1.0, 0.8, 0.6, 0.2, 0.2])


def test_cosine():
    schedule = Schedule('cosine', values=[0.0, 2.0], milestones=[0, 4], by='iter')
    expected = [1 - math.cos(math.pi * i / 4) for i in range(5)]
    assert at(schedule, 'iter', 0, 1, 2, 3, 4, 5) == pytest.approx([*expected, 2.0])


@pytest.mark.parametrize('by', ['epoch', 'iter'])
def test_stop(by):
    schedule = Schedule('step', values=[3], by=by, stop=4)
    assert at(schedule, by, 3, 4, 5) == [3, 0, 0]


@pytest.mark.parametrize(
    'weight, match',
    [
        ('1', 'a weight is a number or a dict'),
        (None, 'a weight is a number or a dict'),
        (True, 'a weight is a number or a dict'),
        (dict(kind='steps'), "got 'steps', 'epoch'"),
        (dict(by='iteration'), "got 'step', 'iteration'"),
        (dict(values=[1, 2]), 'do not fit'),
        (dict(values=[1], milestones=[3]), 'do not fit'),
        (dict(values=[1, 2, 3], milestones=[5, 3]), 'ascending'),
        (dict(values=[1, 2, 3], milestones=[3, 3]), 'ascending'),
        (dict(kind='linear', values=[1, 2, 3], milestones=[1, 2]), 'do not fit'),
        (dict(kind='cosine', values=[1, 2], milestones=[2, 1]), 'ascending'),
    ],
)
def test_errors(weight, match):
    with pytest.raises(ValueError, match=match):
        Schedule.of(weight)
