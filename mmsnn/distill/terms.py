"""Terms: the entries of a Distiller's ``losses``, and the making of their connectors."""

from dataclasses import dataclass

from torch import Tensor, nn

from mmsnn.layers import blank_image, evaluating, get_time_steps, read_short
from mmsnn.registry import build_own

from .fitting import are_probabilities, check_maps, check_shapes, lowered
from .losses import DistillLoss
from .recording import Recorder
from .running import HeadError, run
from .schedules import Schedule
from .taps import Tap, TapError, resolve

# Sizes of the blank image that runs through the models before training.
SIZES = 64, 224, 320, 512


class MisfitError(ValueError):
    """What a term taps is not there, or not what it reads."""


@dataclass
class Term:
    """One entry of ``losses``: the taps of student and teacher, the loss and its weight. The Distiller owns connectors.

    Args:
        key: its config key, ``model.losses.NAME``.
        name: its name among the losses of a training step.
        from_teacher: name of the teacher, None where the loss needs none.
        watched: names of neurons or layers, for a loss that watches these instead of reading taps; None otherwise.
    """

    key: str
    name: str
    loss: DistillLoss
    student: list[Tap]
    teacher: list[Tap]
    connector: dict | list | None
    weight: Schedule
    from_teacher: str | None
    watched: tuple[str, ...] | None = None

    def taps(self, role: str | None) -> list[Tap]:
        """The student's taps, or those of the teacher called ``role``."""
        return self.student if role == 'student' else self.teacher if role == self.from_teacher else []

    def names(self, role: str | None) -> str:
        """The taps of a role, for messages."""
        return ', '.join(map(str, self.taps(role)))

    def collect(self, recorders: dict, views: int = 1) -> list[tuple[list[Tensor], list[Tensor]]]:
        """The recorded tensors of the student and of the teacher, for each of the ``views`` of an image.

        ``recorders`` holds a `Recorder` for each role, and the context of each term that watches, by its name.

        Raises:
            ValueError: the numbers of tensors differ, or are not a multiple of ``views``.
        """
        if self.watched is not None:
            return [(recorders[self.name].totals(), [])]
        roles = ('student', self.from_teacher)
        try:
            sides = [[recorders[role].get(tap) for tap in self.taps(role)] if role else [] for role in roles]
        except TapError as error:
            raise ValueError(f'{self.key}: {error}') from error
        for ours, theirs, s, t in zip(self.student, self.teacher, *sides, strict=True) if self.from_teacher else ():
            if len(s) != len(t):
                more = ours if len(s) > len(t) else theirs
                raise ValueError(
                    f'{self.key}: tap {ours} of the student gives {len(s)} tensors, {theirs} of the '
                    f"{self.from_teacher} {len(t)}, one for every item of a module's output and every call: "
                    + (
                        f'{more.module}[0] taps the first item; if the module is called several times, tap a layer '
                        'that is called once. A head may return more in training than in testing (K-Net: one item '
                        'per stage, of which the last is the prediction)'
                        if more.index is None
                        else 'heads with different numbers of levels cannot be compared, take terms on features'
                    )
                )
        for tap, tensors in zip(self.student, sides[0], strict=True):
            if len(tensors) % views:
                raise ValueError(f'{self.key}: tap {tap} gives {len(tensors)} tensors for {views} views of each image')

        def of_view(side: list[list[Tensor]], i: int) -> list[Tensor]:
            each = [len(tensors) // views for tensors in side]
            return [x for tensors, n in zip(side, each, strict=True) for x in tensors[i * n : (i + 1) * n]]

        return [(of_view(sides[0], i), of_view(sides[1], i)) for i in range(views)]

    def connect(self, connectors: nn.ModuleDict, student: list[Tensor], teacher: list[Tensor]) -> list[Tensor]:
        """Apply the term's connectors to the student's tensors; they see time folded into the batch."""
        if self.name not in connectors:
            return student
        targets = teacher if self.from_teacher else [None] * len(student)
        linked = []
        for connector, x, t in zip(connectors[self.name], student, targets, strict=True):
            if self.loss.time != 'steps':
                linked.append(_link(connector, x, t))
                continue
            t = None if t is None else t.flatten(0, 1)
            linked.append(_link(connector, x.flatten(0, 1), t).unflatten(0, x.shape[:2]))
        return linked


def _link(connector: nn.Module, x: Tensor, target: Tensor | None) -> Tensor:
    return connector(x, target) if getattr(connector, 'needs_target', False) else connector(x)


def _listed(names):
    return [names] if isinstance(names, str) else names


def logged_as(name: str) -> str:
    """The name in the log of the entry ``name`` of ``losses``: mmengine adds up what has ``loss`` in its name."""
    return name if 'loss' in name else f'loss_{name}'


def first(named: dict, key: str) -> str:
    """The name of the first teacher; ValueError naming ``key`` if there is none."""
    if not named:
        raise ValueError(f'model.teacher is missing: {key} needs the config of a teacher')
    return next(iter(named))


def draft(name: str, cfg: dict, named: dict, short_T: int | None) -> Term:
    """The term of one entry of ``losses``; the teachers in ``named`` are configs that are not built yet.

    Raises:
        ValueError: a key is missing, unknown or contradicts another one; the message names it.
    """
    key = f'model.losses.{name}'
    try:
        cfg = dict(cfg)
        student = cfg.pop('student', None)
        teacher, from_teacher = cfg.pop('teacher', None), cfg.pop('from_teacher', None)
        connector, weight = cfg.pop('connector', None), cfg.pop('weight', 1.0)
        loss = build_own(cfg)
        if not isinstance(loss, DistillLoss):
            raise ValueError(f'{type(loss).__name__} is no distillation loss')
        watched = None
        if loss.watches:
            watched, student = tuple(_listed(student or ())), []
            if connector is not None:
                raise ValueError(f'{type(loss).__name__} watches neurons and takes no connector')
        if student is None:
            raise KeyError('student')
        if not loss.needs_teacher:
            teacher, from_teacher = [], None
        elif teacher is None:
            raise KeyError('teacher')
        else:
            from_teacher = from_teacher or first(named, key)
            if from_teacher not in named:
                raise ValueError(f'from_teacher={from_teacher!r} is none of the teachers {", ".join(named)}')
        if loss.time == 'short_T' and short_T is None:
            raise ValueError('model.short_T is missing: set the number of time steps at inference')
        ours, theirs = ([Tap.parse(t, loss.time) for t in _listed(taps)] for taps in (student, teacher))
        if loss.needs_teacher and len(ours) != len(theirs):
            raise ValueError(f'{len(ours)} student taps face {len(theirs)} of the teacher')
        return Term(key, logged_as(name), loss, ours, theirs, connector, Schedule.of(weight), from_teacher, watched)
    except KeyError as error:
        if error.args[0] in ('student', 'teacher'):
            raise ValueError(f'{key}.{error.args[0]} is missing: name the module to tap') from None
        raise ValueError(f'{key}: {error.args[0]}') from error
    except (TypeError, ValueError) as error:
        message = str(error.args[0])
        raise ValueError(message if message.startswith('model.') else f'{key}: {message}') from error


def bind(term: Term, models: dict[str, nn.Module]) -> None:
    """Check that taps and watched names exist, and bind the loss to its models; ValueError names the term."""
    try:
        for role in filter(None, ('student', term.from_teacher)):
            for tap in term.taps(role):
                resolve(models[role], tap, role)
        if term.watched is not None:
            term.loss.watch(models['student'], *term.watched)
        term.loss.bind(models['student'], models[term.from_teacher] if term.from_teacher else None)
    except ValueError as error:
        raise ValueError(f'{term.key}: {error.args[0]}') from error


def make_connectors(terms: list[Term], models: dict[str, nn.Module], short_T: int | None) -> nn.ModuleDict:
    """Build the connectors of all terms, with the widths that one blank image shows at their taps.

    Raises:
        ValueError: the tensors of a term differ in number, shape or classes; the message names the term.
    """
    terms = [term for term in terms if term.watched is None]
    if not terms:
        return nn.ModuleDict()
    recorders, size = _record_all(terms, models, short_T)
    connectors = nn.ModuleDict()
    for term in terms:
        ((student, teacher),) = term.collect(recorders)
        if term.connector is not None:
            counts = [len(recorders['student'].get(tap)) for tap in term.student]
            connectors[term.name] = _build(term, counts, student, teacher)
        if term.from_teacher and term.loss.maps:
            check_maps(term, student, teacher)
        with evaluating(connectors):
            linked = term.connect(connectors, student, teacher)
        if term.from_teacher and term.loss.same_shape:
            check_shapes(term, student, linked, teacher, size)
        try:
            term.loss.check(linked, teacher)
        except ValueError as error:
            raise ValueError(f'{term.key}: {error.args[0]}') from error
        if are_probabilities(term, student, teacher):
            # The weights are random as yet, so logits may lie there by chance.
            with lowered(models, term):
                ((student, teacher),) = term.collect(_record_all([term], models, short_T)[0])
            if are_probabilities(term, student, teacher):
                raise ValueError(
                    f'{term.key}: {type(term.loss).__name__} reads logits, but everything tapped lies between 0 and 1, '
                    'as after a sigmoid: tap the layer that answers before it'
                )
    return connectors


def _record_all(terms: list[Term], models: dict[str, nn.Module], short_T: int | None) -> tuple[dict, int]:
    """A `Recorder` per model after a blank image, and the size of the image: the smallest that all models accept."""
    failed: list[Exception] = []
    for size in SIZES:
        try:
            return {role: _record(terms, model, role, short_T, size) for role, model in models.items()}, size
        except MisfitError:
            raise
        # The image may be too small for the last levels of SSD or for their norms, or not have the one size that a
        # transformer accepts; libraries say so by errors of any kind.
        except Exception as error:
            failed.append(error)
    raise failed[0]


def _record(terms: list[Term], model: nn.Module, role: str, short_T: int | None, size: int) -> Recorder:
    taps = [tap for term in terms for tap in term.taps(role)]
    short_T = short_T if role == 'student' else None
    recorder = Recorder(model, taps, role, get_time_steps(model), short_T=short_T)
    with evaluating(model), read_short(model, short_T):
        try:
            with recorder:
                run(model, blank_image(model, size), taps, role)
        except HeadError as error:
            keys = [t.key for t in terms if any(tap.part == error.part for tap in t.taps(role))]
            raise MisfitError(f'{", ".join(keys)}: {error}') from error
        except TapError as error:
            keys = [t.key for t in terms if error.tap in t.taps(role)]
            raise MisfitError(f'{", ".join(keys)}: {error}') from error
        recorder.follow_pipes()
    return recorder


def _build(term: Term, counts: list[int], student: list[Tensor], teacher: list[Tensor]) -> nn.ModuleList:
    """A connector per tensor. A list of configs has one entry per tap; None keeps the tensors of its tap unchanged."""
    configs = term.connector if isinstance(term.connector, (list, tuple)) else [term.connector] * len(counts)
    if len(configs) != len(counts):
        raise ValueError(f'{term.key}.connector: {len(configs)} connectors face {len(counts)} taps')
    configs = [cfg for cfg, count in zip(configs, counts, strict=True) for _ in range(count)]
    dim, built = 2 if term.loss.time == 'steps' else 1, []
    targets = teacher if term.from_teacher else [None] * len(student)
    for cfg, s, t in zip(configs, student, targets, strict=True):
        # Without a teacher, the width is that of the term's first tensor, which is the output of a head.
        widths = dict(in_channels=s.shape[dim], out_channels=student[0].shape[dim] if t is None else t.shape[dim])
        try:
            built.append(nn.Identity() if cfg is None else build_own({**widths, **cfg}))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f'{term.key}.connector: {error.args[0]}') from error
    return nn.ModuleList(built)
