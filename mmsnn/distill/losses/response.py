"""Losses on logits."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmsnn.registry import MODELS

from .base import REMEDY, AnswerLoss, DistillLoss
from .targets import cross_entropy, soft_targets


def kl_divergence(teacher: Tensor, student: Tensor, tau: float, dim: int = 1) -> Tensor:
    """``tau^2 * KL(softmax(teacher/tau) || softmax(student/tau))`` summed over ``dim``; the other dimensions stay."""
    log_t = (teacher.float() / tau).log_softmax(dim)
    log_s = (student.float() / tau).log_softmax(dim)
    return tau * tau * (log_t.exp() * (log_t - log_s)).sum(dim)


@MODELS.register_module()
class LogitKL(AnswerLoss):
    """Soft labels (Hinton et al. 2015): ``KL_tau(zA || zbar)``, summed over classes, mean over the batch.

    Args:
        tau: temperature.
    """

    def __init__(self, tau: float = 1.0):
        super().__init__()
        self.tau = tau

    def forward(self, student: list[Tensor], teacher: list[Tensor], data_samples=None) -> Tensor:
        return sum(kl_divergence(t, s, self.tau).mean() for s, t in zip(student, teacher, strict=True))


@MODELS.register_module()
class WeightedSoftLabels(AnswerLoss):
    """BKD's logit term (BKDSNN, Xu et al., ECCV 2024): soft labels, weighted by how far the student lags behind.

    ``tau^2 * mean_i w_i * softCE(softmax(zA_i/tau), zbar_i/tau)`` with ``w_i = 1 - exp(-CE_S_i / (CE_A_i + 1e-7))``.
    ``CE_S`` and ``CE_A`` are the cross-entropies of student and teacher with the label, at temperature 1 and without
    gradient. As the term is a cross-entropy and not a divergence, it stays above 0 where student and teacher agree.

    Args:
        tau: temperature.
        label_smooth: label smoothing of the labels in ``w_i``; set it to that of the student's own loss (0.1 in the
            released transformer recipes).

    Raises:
        ValueError: ``label_smooth`` is not in [0, 1).
    """

    def __init__(self, tau: float = 2.0, label_smooth: float = 0.0):
        super().__init__()
        if not 0 <= label_smooth < 1:
            raise ValueError(f'WeightedSoftLabels: label_smooth={label_smooth!r} must be in [0, 1)')
        self.tau, self.label_smooth = tau, label_smooth

    def forward(self, student: list[Tensor], teacher: list[Tensor], data_samples=None) -> Tensor:
        """The loss from logits ``[B, K]``; data samples need ``gt_label`` or, with mixup, ``gt_score``."""
        return sum(self._tap(s.float(), t.float(), data_samples) for s, t in zip(student, teacher, strict=True))

    def _tap(self, s: Tensor, t: Tensor, data_samples) -> Tensor:
        target = soft_targets(data_samples, s.shape[1], like=s)
        target = (1 - self.label_smooth) * target + self.label_smooth / s.shape[1]
        weight = 1 - torch.exp(-cross_entropy(s.detach(), target) / (cross_entropy(t, target) + 1e-7))
        soft = cross_entropy(s / self.tau, (t / self.tau).softmax(1))
        return self.tau**2 * (weight * soft).mean()


@MODELS.register_module()
class DIST(AnswerLoss):
    """DIST (Huang et al., NeurIPS 2022): compares correlations of predictions instead of their values.

    ``tau^2 * (beta * mean_i (1 - r(p_S[i], p_A[i])) + gamma * mean_k (1 - r(p_S[:, k], p_A[:, k])))`` with
    ``p = softmax(z/tau)``. Pearson's correlation r is taken over the classes of a sample in the first part, and over
    the samples of a class in the second. Each pixel of a segmentation head counts as a sample.

    Args:
        beta, gamma: weights of the two parts.
        tau: temperature.
    """

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, tau: float = 1.0):
        super().__init__()
        self.beta, self.gamma, self.tau = beta, gamma, tau

    def forward(self, student: list[Tensor], teacher: list[Tensor], data_samples=None) -> Tensor:
        """The loss from logits ``[B, K]`` or ``[B, K, h, w]``."""
        return sum(self._tap(s, t) for s, t in zip(student, teacher, strict=True))

    def _tap(self, s: Tensor, t: Tensor) -> Tensor:
        p, q = ((z.float() / self.tau).softmax(1).movedim(1, -1).flatten(0, -2) for z in (s, t))
        inter, intra = (1 - _pearson(p, q, dim).mean() for dim in (1, 0))
        return self.tau**2 * (self.beta * inter + self.gamma * intra)


def _pearson(x: Tensor, y: Tensor, dim: int) -> Tensor:
    """Pearson's correlation over ``dim``; 0 without gradient where an input is constant, as for a silent network."""
    centred = []
    for z in (x, y):
        c = z - z.mean(dim, keepdim=True)
        varies = c.detach().norm(dim=dim, keepdim=True) > 1e-6 * z.detach().norm(dim=dim, keepdim=True)
        centred.append(c * varies)
    return F.cosine_similarity(*centred, dim)


@MODELS.register_module()
class EnOF(DistillLoss):
    """EnOF-SNN (Guo et al., NeurIPS 2024): the teacher's classifier is applied to the student's feature.

    ``KL_tau(W_A f_A || W_A f_S)`` for the features before the classifiers, summed over classes and averaged over the
    batch. The classifier ``W_A`` is frozen. Where the widths differ, use the connector `Affine`, which brings ``f_S``
    to the teacher's width.

    Args:
        tau: temperature.
        classifier: name of the linear layer in the teacher.

    Raises:
        ValueError: ``classifier`` does not name a linear layer of the teacher, the student's layer of that name has
            another number of classes, or the tapped features do not fit into the classifier.
    """

    def __init__(self, tau: float = 1.0, classifier: str = 'head.fc'):
        super().__init__()
        self.tau = tau
        self.classifier = classifier
        self.classify: Callable[[Tensor], Tensor]

    def bind(self, student_module: nn.Module, teacher_module: nn.Module) -> None:
        """Find the teacher's classifier, and compare it with the student's."""
        fc = dict(teacher_module.named_modules()).get(self.classifier)
        if not isinstance(fc, nn.Linear):
            raise ValueError(f'EnOF: classifier={self.classifier!r} is {type(fc).__name__} in the teacher, not Linear')
        name = self.classifier
        ours = dict(student_module.named_modules()).get(name) if student_module is not None else None
        if isinstance(ours, nn.Linear) and ours.out_features != fc.out_features:
            raise ValueError(
                f"EnOF: the teacher's classifier ({name}) answers {fc.out_features} classes, the student's "
                f'{ours.out_features}. {REMEDY}'
            )

        # A function rather than a submodule: copies of this loss share the teacher, whose weights may be loaded later.
        def classify(x: Tensor) -> Tensor:
            if x.shape[1:] != (fc.in_features,):
                raise ValueError(
                    f'EnOF: {name} of the teacher reads features [B, {fc.in_features}], got {tuple(x.shape)}: '
                    "tap what enters the classifier ('neck[0]'), with the connector Affine where the widths differ"
                )
            return F.linear(x.to(fc.weight), fc.weight.detach(), fc.bias if fc.bias is None else fc.bias.detach())

        self.classify = classify

    def check(self, student: list[Tensor], teacher: list[Tensor]) -> None:
        for x in (*student, *teacher):
            self.classify(x)

    def forward(self, student: list[Tensor], teacher: list[Tensor], data_samples=None) -> Tensor:
        """The loss from features ``[B, C]``."""
        pairs = ((self.classify(s), self.classify(t)) for s, t in zip(student, teacher, strict=True))
        return sum(kl_divergence(t, s, self.tau).mean() for s, t in pairs)
