"""Self-distillation: losses in which the time steps of a spiking network teach each other, without a teacher."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmsnn.registry import MODELS, build_own

from .base import DistillLoss
from .response import kl_divergence
from .targets import cross_entropy, soft_targets
from .temporal import StepLoss, right_mean, step_kl


@MODELS.register_module()
class TemporalSpatialSelf(DistillLoss):
    """TSSD, temporal-spatial self-distillation (Zuo et al., 2024), reconstructed from the paper.

    ``alpha * D(sg z^(T_train) -> z^(T)) + beta * D(sg z^(T) -> w)``, where ``z^(T)`` is the output after the first T of
    ``T_train`` steps and ``w`` the output of a weak head. In the paper, which classifies, D is ``KL_tau`` (`LogitKL`);
    use `PixelKL` for segmentors and `DenseResponse` for detectors. The loss needs the Distiller's ``short_T=T``, which
    also adds ``CE(z^(T), y)`` to the student's own loss.

    The student's taps are the output of the head, followed by one stage per weak head with the connector `WeakHead`.

    Args:
        response: config of D, by default ``dict(type='LogitKL', tau=2.0)``.
        alpha, beta: weights of the temporal and of the spatial part.
        weak: number of weak heads, whose tensors are the last ones. Their maps are resized to the head's first level.
    """

    time = 'short_T'
    needs_teacher = False

    def __init__(self, response: dict | None = None, alpha: float = 1.0, beta: float = 1.0, weak: int = 1):
        super().__init__()
        self.response = build_own(response or dict(type='LogitKL', tau=2.0))
        self.alpha, self.beta, self.weak = alpha, beta, weak

    def bind(self, student_module: nn.Module, teacher_module: None) -> None:
        """The student is its own teacher."""
        self.response.bind(student_module, student_module)

    def forward(self, student: list[Tensor], teacher: list[Tensor], data_samples=None) -> Tensor:
        """The loss from outputs ``[2*B, ...]``, of the first steps and of all steps.

        Raises:
            ValueError: ``weak`` leaves no tensor for the head.
        """
        split = len(student) - self.weak
        if split < 1:
            raise ValueError(f'TemporalSpatialSelf: weak={self.weak} leaves none of {len(student)} tensors to the head')
        (short, full), (weak, _) = (_halves(tensors) for tensors in (student[:split], student[split:]))
        total = self.alpha * self.response(short, [z.detach() for z in full], data_samples)
        for w in weak:
            target = short[0].detach()
            if w.dim() == 4:
                w = F.interpolate(w, target.shape[-2:], mode='bilinear')
            total = total + self.beta * self.response([w], [target], data_samples)
        return total


def _halves(tensors: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    pairs = [z.float().chunk(2) for z in tensors]
    return [short for short, _ in pairs], [full for _, full in pairs]


@MODELS.register_module()
class TET(StepLoss):
    """Temporal efficient training (Deng et al., ICLR 2022): the cross-entropy of every time step.

    It replaces the student's own loss, so set ``task_weight=0``.

    ``(1-l) * mean_t CE(z_t, y) + l * MSE_mean(z, v_threshold)``

    Args:
        l: share of the regulariser.
        v_threshold: value to which the regulariser pulls the logits.
    """

    needs_teacher = False

    def __init__(self, l: float = 1e-3, v_threshold: float = 1.0):  # noqa: E741
        super().__init__()
        self.l, self.v_threshold = l, v_threshold

    def compute(self, z: Tensor, teacher: None, data_samples: list | None) -> Tensor:
        ce = cross_entropy(z, soft_targets(data_samples, z.shape[2], like=z)).mean()
        return (1 - self.l) * ce + self.l * (z - self.v_threshold).square().mean()


class StepsOnly(StepLoss):
    """Base of the losses between the student's own steps, which need at least two of them."""

    needs_teacher = False

    def check(self, student: list[Tensor], teacher: list[Tensor]) -> None:
        super().check(student, teacher)
        for z in student:
            self._check_steps(z)

    def _check_steps(self, z: Tensor) -> None:
        if len(z) < 2:
            raise ValueError(f'{type(self).__name__} compares time steps, and T=1')


@MODELS.register_module()
class ETC(StepsOnly):
    """Enhancing temporal consistency (ETC, Zhao et al., Pattern Recognition 2024): every step teaches every other.

    ``mean_{i != j} KL_tau(sg z_j || z_i)`` over ordered pairs. It is added to the student's own loss
    (``task_weight=1``).

    Args:
        tau: temperature.

    Raises:
        ValueError: T = 1.
    """

    def __init__(self, tau: float = 4.0):
        super().__init__()
        self.tau = tau

    def compute(self, z: Tensor, teacher: None, data_samples: list | None) -> Tensor:
        self._check_steps(z)
        # The mean runs over all T * T pairs, T of which are 0; the factor leaves those out.
        return step_kl(z.unsqueeze(0), z.unsqueeze(1), self.tau) * len(z) / (len(z) - 1)


@MODELS.register_module()
class TKS(StepLoss):
    """Temporal knowledge sharing (TKS, Dong et al., 2024): the steps that predict the right class teach all steps.

    It replaces the student's own loss, so set ``task_weight=0``.

    ``a_e * CE(zbar, y) + (1-a_e) * tau^2 * mean_t softCE(z_t, softmax(Q/tau))`` with ``a_e = 1 - alpha * e/E`` in epoch
    e of E. Q is the sum of ``z_t`` over the steps that predict the right class (0 where none does). As in the authors'
    code, the gradient passes through Q.

    Args:
        alpha: share of the soft labels at the end of the training.
        tau: temperature of the soft labels.
        released: True follows the authors' code. False follows our reading of the paper's text: Q is the mean of the
            right steps, its gradient is stopped, and there is no factor ``tau^2``.

    Raises:
        ValueError: in the forward pass, the number of epochs is unknown.
    """

    needs_teacher = False
    needs_progress = True

    def __init__(self, alpha: float = 0.7, tau: float = 3.0, released: bool = True):
        super().__init__()
        self.alpha, self.tau, self.released = alpha, tau, released

    def compute(self, z: Tensor, teacher: None, data_samples: list | None) -> Tensor:
        if self.progress is None or not self.progress.max_epochs:
            raise ValueError('TKS needs the number of epochs: train by epochs, with mmsnn.DistillHook')
        share = self.alpha * min(self.progress.epoch / self.progress.max_epochs, 1.0)
        target = soft_targets(data_samples, z.shape[2], like=z)
        if self.released:
            q, scale = (z * (z.argmax(-1) == target.argmax(-1)).unsqueeze(-1)).sum(0), self.tau**2
        else:
            q, scale = right_mean(z, target).detach(), 1.0
        soft = scale * cross_entropy(z, (q / self.tau).softmax(-1)).mean()
        return (1 - share) * cross_entropy(z.mean(0), target).mean() + share * soft


@MODELS.register_module()
class StrongWeak(StepsOnly):
    """The most confident step teaches the least confident (Ding et al., NeurIPS 2025), reconstructed from the paper.

    ``KL_tau(z_strong || z_weak)``, added to the student's own loss (``task_weight=1``). The confidence of a step is its
    largest probability, averaged over the batch, so that a batch has one strong and one weak step. No gradient is
    stopped: both steps learn.

    Args:
        reverse: whether the weak step teaches the strong one, ``KL_tau(z_weak || z_strong)``.
        tau: temperature.
        per_image: whether every image of the batch has its own strong and weak step.

    Raises:
        ValueError: T = 1.
    """

    def __init__(self, reverse: bool = False, tau: float = 2.0, per_image: bool = False):
        super().__init__()
        self.reverse, self.tau, self.per_image = reverse, tau, per_image

    def compute(self, z: Tensor, teacher: None, data_samples: list | None) -> Tensor:
        self._check_steps(z)
        confidence = z.detach().softmax(-1).amax(-1)
        if not self.per_image:
            confidence = confidence.mean(1, keepdim=True).expand_as(confidence)
        steps = torch.stack([confidence.argmax(0), confidence.argmin(0)])
        strong, weak = z.gather(0, steps.unsqueeze(-1).expand(-1, -1, z.shape[2]))
        teaching, taught = (weak, strong) if self.reverse else (strong, weak)
        return kl_divergence(teaching, taught, self.tau, dim=-1).mean()
