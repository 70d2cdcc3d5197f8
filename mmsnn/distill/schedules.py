"""Schedules: weights of loss terms that change during the training."""

import bisect
import math
from dataclasses import dataclass
from numbers import Real

from mmsnn.registry import without_scope

UNITS = ('epoch', 'iter', 'iter_in_epoch')
KINDS = ('step', 'linear', 'cosine')


@dataclass
class Progress:
    """The state of a training, counted from 0. In a training by iterations, an epoch is once through the data.

    Attributes:
        epoch, iter: number of the present epoch and iteration.
        iter_in_epoch: number of the iteration within its epoch.
        max_epochs: total number of epochs, 0 if unknown.
    """

    epoch: int = 0
    iter: int = 0
    iter_in_epoch: int = 0
    max_epochs: int = 0


class Schedule:
    """Weight of a loss term as a function of `Progress`.

    Args:
        kind: ``step`` uses ``values[i]`` from ``milestones[i-1]`` on; ``linear`` and ``cosine`` go from ``values[0]``
            to ``values[1]`` between ``milestones[0]`` and ``milestones[1]``.
        values: the weights.
        milestones: points at which the weight changes, in units of ``by``.
        by: unit of ``milestones`` and ``stop``: ``epoch``, ``iter`` or ``iter_in_epoch``.
        stop: point from which on the weight is 0; the term stays in the graph, because DDP expects every parameter to
            be used.

    Raises:
        ValueError: unknown ``kind`` or ``by``, or numbers of values and milestones that do not fit.
    """

    def __init__(self, kind: str = 'step', values=(1.0,), milestones=(), by: str = 'epoch', stop: int | None = None):
        if kind not in KINDS or by not in UNITS:
            raise ValueError(f'a weight has kind={"|".join(KINDS)} and by={"|".join(UNITS)}, got {kind!r}, {by!r}')
        fits = len(values) == len(milestones) + 1 if kind == 'step' else len(values) == len(milestones) == 2
        if not fits or list(milestones) != sorted(set(milestones)):
            raise ValueError(f'weight: values={values} and ascending milestones={milestones} do not fit kind={kind!r}')
        self.kind, self.values, self.milestones, self.by, self.stop = kind, values, milestones, by, stop

    @classmethod
    def of(cls, weight) -> 'Schedule':
        """A schedule from a number, or from a dict of its arguments; ValueError for anything else."""
        if isinstance(weight, Real) and not isinstance(weight, bool):
            return cls(values=(float(weight),))
        if isinstance(weight, dict):
            return cls(**without_scope(weight))
        raise ValueError(f'a weight is a number or a dict(kind=..., values=..., milestones=...), got {weight!r}')

    @property
    def varies(self) -> bool:
        """Whether the weight changes during the training."""
        return len(self.values) > 1 or self.stop is not None

    def __call__(self, progress: Progress) -> float:
        """The weight at ``progress``."""
        now = getattr(progress, self.by)
        if self.stop is not None and now >= self.stop:
            return 0.0
        if self.kind == 'step':
            return self.values[bisect.bisect_right(self.milestones, now)]
        (first, last), (begin, end) = self.values, self.milestones
        share = min(max((now - begin) / (end - begin), 0.0), 1.0)
        if self.kind == 'cosine':
            share = (1 - math.cos(math.pi * share)) / 2
        return first + (last - first) * share
