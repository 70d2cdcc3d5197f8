"""Weights of loss terms over the training."""

import bisect
import math
from dataclasses import dataclass
from numbers import Real

UNITS = ('epoch', 'iter', 'iter_in_epoch')
KINDS = ('step', 'linear', 'cosine')


@dataclass
class Progress:
    """Where a training stands; all counted from 0. ``max_epochs`` is its length, 0 where unknown."""

    epoch: int = 0
    iter: int = 0
    iter_in_epoch: int = 0
    max_epochs: int = 0


class Schedule:
    """Weight of a loss term as a function of `Progress`.

    Args:
        kind: ``step``: ``values[i]`` from ``milestones[i-1]`` on; ``linear``, ``cosine``: from ``values[0]`` to
            ``values[1]`` between ``milestones[0]`` and ``milestones[1]``.
        values: the weights.
        milestones: where they change, in units of ``by``.
        by: ``epoch``, ``iter`` or ``iter_in_epoch``.
        stop: weight 0 from here on; the term stays in the graph, so that DDP finds its parameters used.

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
        """A number or the arguments as a dict."""
        if isinstance(weight, Real) and not isinstance(weight, bool):
            return cls(values=(float(weight),))
        if isinstance(weight, dict):
            return cls(**weight)
        raise ValueError(f'a weight is a number or a dict(kind=..., values=..., milestones=...), got {weight!r}')

    @property
    def varies(self) -> bool:
        """Whether the weight depends on the progress at all."""
        return len(self.values) > 1 or self.stop is not None

    def __call__(self, progress: Progress) -> float:
        """The weight now."""
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
