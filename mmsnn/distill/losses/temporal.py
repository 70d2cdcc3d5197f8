"""Losses on the student's logits at single time steps, ``z`` ``[T, B, K]``; ``zbar`` is their mean.

Labels may be soft (mixup); the class of an image is then the one with the largest probability.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mmsnn.registry import MODELS

from .base import AnswerLoss
from .response import kl_divergence
from .targets import cross_entropy, soft_targets


class StepLoss(AnswerLoss):
    """Base of the losses on ``z``, summed over taps; subclasses define `compute`."""

    time = 'steps'

    def forward(self, student: list[Tensor], teacher: list[Tensor], data_samples=None) -> Tensor:
        """The loss from the student's logits ``[T, B, K]`` and, where the loss has a teacher, its logits ``[B, K]``."""
        teacher = teacher if self.needs_teacher else [None] * len(student)
        return sum(self.compute(z.float(), t, data_samples) for z, t in zip(student, teacher, strict=True))

    def compute(self, z: Tensor, teacher: Tensor | None, data_samples: list | None) -> Tensor:
        """The loss on one tap; ``z`` is float32."""
        raise NotImplementedError


def step_kl(teacher: Tensor, student: Tensor, tau: float) -> Tensor:
    """``KL_tau`` over the last dimension, mean over everything else; the teacher's gradient is stopped."""
    return kl_divergence(teacher.detach(), student, tau, dim=-1).mean()


def right_mean(z: Tensor, target: Tensor) -> Tensor:
    """Mean ``[B, K]`` of ``z`` over the steps that predict the right class; 0 for images without such a step."""
    right = (z.argmax(-1) == target.argmax(-1)).unsqueeze(-1)
    return (z * right).sum(0) / right.sum(0).clamp(min=1)


@MODELS.register_module()
class StepLogitKL(StepLoss):
    """Logit distillation at every step (Yu et al., ICML 2025).

    It replaces the student's own loss, so set ``task_weight=0``.

    ``mean_t CE(z_t, y) + alpha * mean_t KL_tau(zA || z_t) + beta * mean_t KL_tau(sg z_ens || z_t)``

    Args:
        alpha, beta: weights of the teacher and of the ensemble of the steps.
        tau: temperature; 3 on CIFAR, 1 on ImageNet.
        right_only: whether ``z_ens`` is the mean over the steps that predict the right class (0 where none does), as in
            the authors' code; False takes the mean over all steps, ``zbar``.
    """

    def __init__(self, alpha: float = 0.2, beta: float = 0.5, tau: float = 3.0, right_only: bool = True):
        super().__init__()
        self.alpha, self.beta, self.tau, self.right_only = alpha, beta, tau, right_only

    def compute(self, z: Tensor, teacher: Tensor, data_samples: list | None) -> Tensor:
        target = soft_targets(data_samples, z.shape[2], like=z)
        ensemble = right_mean(z, target) if self.right_only else z.mean(0)
        kd = self.alpha * step_kl(teacher, z, self.tau) + self.beta * step_kl(ensemble, z, self.tau)
        return cross_entropy(z, target).mean() + kd


@MODELS.register_module()
class TemporalSeparation(StepLoss):
    """TSER, temporal separation with entropy regularisation (Yu et al., CVPR 2025), reconstructed from the paper.

    It replaces the student's own loss, so set ``task_weight=0``.

    ``(1-alpha) * mean_t CE(z_t, y) + alpha * mean_t KL_tau(zA || z_t) - gamma * mean_t H(softmax(z_t/tau))``

    Args:
        alpha: share of the teacher's part.
        gamma: weight of the entropy.
        tau: temperature.
    """

    def __init__(self, alpha: float, gamma: float, tau: float):
        super().__init__()
        self.alpha, self.gamma, self.tau = alpha, gamma, tau

    def compute(self, z: Tensor, teacher: Tensor, data_samples: list | None) -> Tensor:
        ce = cross_entropy(z, soft_targets(data_samples, z.shape[2], like=z)).mean()
        entropy = cross_entropy(z / self.tau, (z / self.tau).softmax(-1)).mean()
        return (1 - self.alpha) * ce + self.alpha * step_kl(teacher, z, self.tau) - self.gamma * entropy


@MODELS.register_module()
class SeAl(StepLoss):
    """Selective alignment (SeAl-KD, Sun et al., 2026), as in the authors' code.

    It replaces the student's own loss, so set ``task_weight=0``.

    ``mean_t CE(z_t, y) + alpha * mean_t KL_tau(zA' || z_t') + beta * mean_t KL_tau(sg sum_s w_ts z_s || z_t)``

    Where step t predicts a wrong class, ``z_t'`` is ``z_t`` with the logit of that class replaced by the logit of the
    right class, and ``zA'`` is the teacher's ``zA`` with the logits of both classes replaced by the smaller of the
    two, so that the teacher favours neither. ``w_t`` is a softmax over the other steps s of
    ``(1 - H(p_s) / log K) * cos(z_t, z_s)``; with T = 1 there are no other steps, and the last part is left out.

    Args:
        alpha, beta: weights of the teacher and of the other steps.
        tau: temperature.
    """

    def __init__(self, alpha: float = 0.6, beta: float = 0.15, tau: float = 3.0):
        super().__init__()
        self.alpha, self.beta, self.tau = alpha, beta, tau

    def compute(self, z: Tensor, teacher: Tensor, data_samples: list | None) -> Tensor:
        target = soft_targets(data_samples, z.shape[2], like=z)
        total = cross_entropy(z, target).mean() + self.alpha * self._teacher(z, teacher.float(), target)
        return total + self.beta * step_kl(self._others(z.detach()), z, self.tau) if len(z) > 1 else total

    def _teacher(self, z: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """The teacher's part. Steps that predict the right class stay as they are, because both classes coincide."""
        right, named = target.argmax(-1).expand(len(z), -1).unsqueeze(-1), z.argmax(-1, keepdim=True)
        teacher = teacher.expand_as(z)
        lower = torch.minimum(teacher.gather(-1, right), teacher.gather(-1, named))
        teacher = teacher.scatter(-1, right, lower).scatter(-1, named, lower)
        return step_kl(teacher, z.scatter(-1, named, z.gather(-1, right)), self.tau)

    @staticmethod
    def _others(z: Tensor) -> Tensor:
        T, _, K = z.shape
        confidence = 1 - cross_entropy(z, z.softmax(-1)) / math.log(K)
        scores = confidence * F.cosine_similarity(z.unsqueeze(1), z.unsqueeze(0), dim=-1)
        itself = torch.eye(T, dtype=torch.bool, device=z.device).unsqueeze(-1)
        weight = scores.masked_fill(itself, -torch.inf).softmax(1)
        return (weight.unsqueeze(-1) * z).sum(1)
