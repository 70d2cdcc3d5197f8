"""Learning rate schedules that no combination of mmengine's schedulers gives."""

import math

from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin

from mmsnn.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class TimmCosineLR(LRSchedulerMixin, _ParamScheduler):
    """Warm-up and cosine schedule of timm 0.5 and 0.6, with which the spiking transformers were trained.

    The warm-up replaces the beginning of the cosine instead of preceding it: after the warm-up the learning rate is
    ``eta_min + (lr - eta_min) * (1 + cos(pi * t / T_max)) / 2``, where t counts from step 0. A LinearLR followed by a
    CosineAnnealingLR, whose cosine begins after the warm-up, is up to 12 % higher in the middle of the training. The
    values depend only on the step, so this scheduler cannot be combined with others.

    Args:
        optimizer: the optimizer or its wrapper.
        T_max: number of steps to ``eta_min``, including the warm-up; the rate stays there afterwards.
        eta_min: smallest learning rate.
        warmup: number of steps of the linear warm-up from ``warmup_start`` to the optimizer's learning rate.
        warmup_start: learning rate of the first step.
        kwargs: ``begin``, ``end``, ``last_step``, ``by_epoch``, ``verbose`` as in mmengine's schedulers.

    Raises:
        ValueError: ``0 <= warmup < T_max`` does not hold.
    """

    def __init__(
        self, optimizer, T_max: int, eta_min: float = 0.0, warmup: int = 0, warmup_start: float = 0.0, **kwargs
    ):
        if not 0 <= warmup < T_max:
            raise ValueError(f'param_scheduler.warmup must lie in 0 to T_max={T_max}, got {warmup}')
        self.T_max, self.eta_min = T_max, eta_min
        self.warmup, self.warmup_start = warmup, warmup_start
        super().__init__(optimizer, **kwargs)

    @classmethod
    def build_iter_from_epoch(
        cls, *args, T_max: int, epoch_length: int, warmup: int = 0, begin: int = 0, end: int = 10**9, **kwargs
    ):
        """Build the schedule by iterations from arguments in epochs (``convert_to_iter_based=True``)."""
        times = dict(T_max=T_max, warmup=warmup, begin=begin, end=end)
        kwargs['by_epoch'] = False
        return cls(*args, **{key: int(value * epoch_length) for key, value in times.items()}, **kwargs)

    def _get_value(self) -> list[float]:
        t = self.last_step
        if t < self.warmup:
            return [self.warmup_start + (base - self.warmup_start) * t / self.warmup for base in self.base_values]
        share = (1 + math.cos(math.pi * min(t / self.T_max, 1))) / 2
        return [self.eta_min + (base - self.eta_min) * share for base in self.base_values]
