"""What every distillation loss is."""

from torch import Tensor, nn


class DistillLoss(nn.Module):
    """A loss between tapped tensors.

    Attributes:
        time: ``mean`` of the student's tensors over time, ``steps`` for its single time steps ``[T, B, ...]``, or
            ``prefix`` for the means over the first steps and over all, ``[2*B, ...]``.
        needs_teacher: False leaves the list of the teacher's tensors empty.
        maps: whether these are maps ``[B, C, H, W]`` and nothing else.
        same_shape: whether the student's tensors, behind the connectors, must be shaped as the teacher's.
        needs_progress: whether the loss reads ``progress``, set by the Distiller before each call.
    """

    time = 'mean'
    needs_teacher = True
    same_shape = True
    maps = False
    needs_progress = False
    progress = None

    def bind(self, student_module: nn.Module, teacher_module: nn.Module) -> None:
        """Called once with the task models; for losses that must know, say, the number of classes."""

    def forward(self, student: list[Tensor], teacher: list[Tensor], data_samples: list | None = None) -> Tensor:
        """A scalar from equally long lists of tensors (one a tap, call or feature level)."""
        raise NotImplementedError
