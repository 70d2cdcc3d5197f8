"""What every distillation loss is."""

from torch import Tensor, nn

from ..schedules import Progress

REMEDY = (
    "Take a teacher that was trained on the student's classes (num_classes of its head), or terms on features "
    '(FeatureMSE, PKD or AttentionMSE on stages of the backbone), which need no equal classes'
)


class DistillLoss(nn.Module):
    """A loss between tapped tensors.

    Attributes:
        time: ``mean`` of the student's tensors over time, ``steps`` for its single time steps ``[T, B, ...]``, or
            ``short_T`` for the means over the first steps and over all, ``[2*B, ...]``.
        needs_teacher: False leaves the list of the teacher's tensors empty.
        maps: whether these are maps ``[B, C, H, W]`` and nothing else.
        same_shape: whether the student's tensors, behind the connectors, must be shaped as the teacher's.
        answers: whether these are logits, whose first dimension behind the batch (and the steps) are classes.
        watches: whether it reads no taps, but what `watch` gives; the term's ``student`` then names neurons or layers,
            and may be left out.
        needs_progress: whether the loss reads ``progress``, set by the Distiller before each call.
    """

    time = 'mean'
    needs_teacher = True
    same_shape = True
    answers = False
    maps = False
    watches = False
    needs_progress = False
    progress: Progress | None = None

    def bind(self, student_module: nn.Module, teacher_module: nn.Module) -> None:
        """Called once with the task models; for losses that must know, say, the number of classes."""

    def watch(self, model: nn.Module, *names: str):
        """Where ``watches``: a context around the student's forward, whose ``totals()`` are what `forward` is given."""
        raise NotImplementedError

    def check(self, student: list[Tensor], teacher: list[Tensor]) -> None:
        """Called once before training with what a blank image gives, behind the connectors; ValueError for a misfit."""

    def forward(self, student: list[Tensor], teacher: list[Tensor], data_samples: list | None = None) -> Tensor:
        """A scalar from equally long lists of tensors (one a tap, call or feature level)."""
        raise NotImplementedError


class AnswerLoss(DistillLoss):
    """A loss on logits that a softmax over the classes reads."""

    answers = True

    def check(self, student: list[Tensor], teacher: list[Tensor]) -> None:
        """ValueError where there is a single class, whose probability is always 1."""
        for z in student:
            if z.shape[2 if self.time == 'steps' else 1] == 1:
                raise ValueError(
                    f'{type(self).__name__} compares probabilities of classes, and the student answers a single one, '
                    'whose softmax is always 1 (a head that answers by a sigmoid): set out_channels=2 in the heads, '
                    'or compare features'
                )
