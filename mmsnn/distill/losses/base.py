"""What every distillation loss is."""

from torch import Tensor, nn


class DistillLoss(nn.Module):
    """A loss between tapped tensors.

    Subclasses set ``time`` to ``steps`` where they need the student's single time steps ``[T, B, ...]``.
    """

    time = 'mean'
    needs_teacher = True
    needs_progress = False
    progress = None

    def bind(self, student_module: nn.Module, teacher_module: nn.Module) -> None:
        """Called once with the task models; for losses that must know, say, the number of classes."""

    def forward(self, student: list[Tensor], teacher: list[Tensor], data_samples: list | None = None) -> Tensor:
        """A scalar from equally long lists of tensors (one a tap, call or feature level)."""
        raise NotImplementedError
