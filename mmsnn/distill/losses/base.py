"""The base classes of the distillation losses."""

from torch import Tensor, nn

from ..schedules import Progress

REMEDY = (
    "Take a teacher that was trained on the student's classes (num_classes of its head), or terms on features "
    '(FeatureMSE, PKD or AttentionMSE on stages of the backbone), which need no equal classes'
)


class MismatchError(ValueError):
    """The tensors of student and teacher cannot be compared: they differ in number or shape."""


class DistillLoss(nn.Module):
    """A loss between tapped tensors of student and teacher. Subclasses set the attributes and define `forward`.

    Attributes:
        time: the form in which the loss receives the student's tensors: ``mean`` for the mean over time
            ``[B, ...]``, ``steps`` for single time steps ``[T, B, ...]``, or ``short_T`` for the mean over the first
            ``short_T`` steps followed by the mean over all, ``[2*B, ...]``.
        needs_teacher: False if the loss uses no teacher; its list of teacher tensors is then empty.
        maps: whether the loss accepts only maps ``[B, C, H, W]``.
        same_shape: whether the student's tensors, after the connectors, must have the shapes of the teacher's.
        answers: whether the tensors are logits, with the classes in the first dimension after batch (and steps).
        watches: whether the loss reads what `watch` gives instead of taps; the term's ``student`` then names neurons or
            layers, and may be left out.
        needs_progress: whether the loss reads ``progress``.
        progress: the state of the training, which the Distiller sets before each call.
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
        """Called once with the task models, for losses that read something from them, e.g. the number of classes."""

    def watch(self, model: nn.Module, *names: str):
        """For losses that set ``watches``: a context around the student's forward.

        `forward` gets the result of its ``totals()`` as the student's tensors.
        """
        raise NotImplementedError

    def check(self, student: list[Tensor], teacher: list[Tensor]) -> None:
        """Called once before training, with the tensors of a blank image after the connectors.

        Raises:
            ValueError: the tensors do not suit the loss.
        """

    def logits(self, tensors: list[Tensor]) -> list[Tensor]:
        """Those of a side's tapped tensors that may not be probabilities, as after a sigmoid."""
        return []

    def __call__(self, *args, **kwargs) -> Tensor:
        """As `forward`, for tensors that fit each other; others might broadcast, to a plausible number.

        Raises:
            MismatchError: the lists differ in length, or their tensors in shape.
        """
        if self.needs_teacher and not self.watches:
            self._fit(*(args[i] if len(args) > i else kwargs[name] for i, name in enumerate(('student', 'teacher'))))
        return super().__call__(*args, **kwargs)

    def _fit(self, student: list[Tensor], teacher: list[Tensor]) -> None:
        name = type(self).__name__
        if len(student) != len(teacher):
            raise MismatchError(f'{name}: {len(student)} tensors of the student face {len(teacher)} of the teacher')
        takes = 'equal shapes, of a spiking network the mean over time: unfold(x, T).mean(0)'
        if self.time == 'steps':
            takes = '[T, B, ...] of the student, and [T, B, ...], [1, B, ...] or [B, ...] of the teacher'
        for i, (s, t) in enumerate(zip(student, teacher)):
            same = s.shape == t.shape
            if self.time == 'steps':
                same = t.shape == s.shape[1:] or (t.shape[1:] == s.shape[1:] and t.shape[0] in (1, s.shape[0]))
            if (self.same_shape and not same) or (self.maps and not s.dim() == t.dim() == 4):
                raise MismatchError(
                    f'{name}: tensor {i} is {tuple(s.shape)} at the student and {tuple(t.shape)} at the teacher. It '
                    f'takes {"maps [B, C, H, W], " if self.maps else ""}{takes}'
                )

    def forward(self, student: list[Tensor], teacher: list[Tensor], data_samples: list | None = None) -> Tensor:
        """A scalar from two lists of equal length, with one tensor per tap, call or feature level."""
        raise NotImplementedError


class AnswerLoss(DistillLoss):
    """A loss on logits to which a softmax over the classes is applied."""

    answers = True

    def check(self, student: list[Tensor], teacher: list[Tensor]) -> None:
        """Raise ValueError for a single class, whose softmax is always 1."""
        for z in student:
            if z.shape[2 if self.time == 'steps' else 1] == 1:
                raise ValueError(
                    f'{type(self).__name__} compares probabilities of classes, and the student answers a single one, '
                    'whose softmax is always 1 (a head that answers by a sigmoid): set out_channels=2 in the heads, '
                    'or compare features'
                )


def find_head(model: nn.Module, name: str) -> nn.Module | None:
    """The head called ``name`` of a task model, of a cascade the last one, which predicts; None without it."""
    head = getattr(model, name, None)
    return head[-1] if isinstance(head, nn.ModuleList) else head
