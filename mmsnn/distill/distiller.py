"""Knowledge distillation around any OpenMMLab task model."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from mmsnn.layers import get_time_steps
from mmsnn.models.wrapper import Transparent
from mmsnn.registry import MODELS, build_own

from . import taps as tapping
from .losses import DistillLoss
from .schedules import Progress, Schedule
from .taps import Recorder, Tap
from .teacher import Teacher, renormalise, untouched_rng
from .transfer import transfer_weights


@dataclass
class Term:
    """One line of ``losses``: taps on both sides, the loss and its weight; connectors lie in the Distiller."""

    name: str
    loss: DistillLoss
    student: list[Tap]
    teacher: list[Tap]
    connector: dict | None
    weight: Schedule


@MODELS.register_module()
class Distiller(Transparent, BaseModel):
    """A student task model, taught by a frozen teacher.

    To the outside it is the student: its ``state_dict`` holds the student alone under the student's names, unknown
    attributes are the student's, and prediction is the student's. Connectors are trained beside it and kept for
    resuming by `DistillHook` (mmsnn.engine.hooks), without which a runner may not train it. The teacher is no
    submodule: no file, no optimizer and no DDP reducer sees it. With no losses and no transfer the run equals the plain
    student's bit for bit.

    Example::

        model = dict(
            type='mmsnn.Distiller', student=_base_.model, teacher='mmsnn::ann/retinanet_r34_coco.py',
            teacher_checkpoint='work_dirs/retinanet_r34_coco/epoch_12.pth', transfer=True,
            losses=dict(
                loss_feature=dict(type='FeatureMSE', student='backbone.layer4', teacher='backbone.layer4',
                                  connector=dict(type='ConvBN'), weight=1.0)))

    Args:
        student: config of the task model (mmdet, mmseg, mmpretrain).
        teacher: config of the teacher's task model, or the path of its config file. Not needed without losses and
            transfer.
        teacher_checkpoint: the teacher's weights: a file, a URL or ``torchvision://NAME``.
        losses: one entry a term, ``name=dict(type=LOSS, student=TAPS, teacher=TAPS, connector=..., weight=...)``. A tap
            is a module name (see `Tap`) or a list of them; ``weight`` a number or a `Schedule`. Names without "loss"
            get it as prefix, because the task libraries sum what has it in its name.
        transfer: level 1, copy the teacher's weights into the student after its initialisation; True or arguments of
            `transfer_weights`.
        data_preprocessor: handed to the student unless it has one (runners put a top-level one on the outermost model).

    Raises:
        ValueError: a tap names no module, shapes do not fit, or a key is missing; the message names it.
    """

    inner = 'student'
    hidden = ('connectors',)

    def __init__(
        self,
        student: dict,
        teacher: str | dict | None = None,
        teacher_checkpoint: str | None = None,
        losses: dict | None = None,
        transfer: bool | dict = False,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg=init_cfg)
        del self._modules['data_preprocessor']  # the student's serves
        if data_preprocessor is not None:
            student = {**student}
            student.setdefault('data_preprocessor', data_preprocessor)
        self.student = ROOT_MODELS.build(student)
        self.transfer = {} if transfer is True else transfer
        self.progress = Progress()
        self.hooked = False
        self.teacher: Teacher | None = None
        self.terms: list[Term] = []
        connectors = nn.ModuleDict()
        if losses or transfer is not False:
            if teacher is None:
                raise ValueError('model.teacher is missing: losses and transfer need the config of a teacher')
            with untouched_rng():
                self.teacher = Teacher(teacher, teacher_checkpoint)
                self.terms = [self._make_term(name, dict(cfg)) for name, cfg in (losses or {}).items()]
                if self.terms:
                    with torch.no_grad():
                        connectors = self._make_connectors()
        self.connectors = connectors
        self._make_transparent()

    def _make_term(self, name: str, cfg: dict) -> Term:
        key = f'model.losses.{name}'
        try:
            sides = {side: cfg.pop(side) for side in ('student', 'teacher')}
        except KeyError as error:
            raise ValueError(f'{key}.{error.args[0]} is missing: name the module to tap') from None
        connector, weight = cfg.pop('connector', None), cfg.pop('weight', 1.0)
        try:
            loss = build_own(cfg)
            taps = {s: [Tap.parse(t, loss.time) for t in ([v] if isinstance(v, str) else v)] for s, v in sides.items()}
            if len(taps['student']) != len(taps['teacher']):
                raise ValueError(f'{len(taps["student"])} student taps face {len(taps["teacher"])} of the teacher')
            for side, model in (('student', self.student), ('teacher', self.teacher.model)):
                for tap in taps[side]:
                    tapping.resolve(model, tap, side)
            loss.bind(self.student, self.teacher.model)
            name = name if 'loss' in name else f'loss_{name}'
            return Term(name, loss, taps['student'], taps['teacher'], connector, Schedule.of(weight))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f'{key}: {error.args[0]}') from error

    def _make_connectors(self) -> nn.ModuleDict:
        """Connectors as wide as a forward of one blank image through both models says."""
        found = {}
        for role, model in (('student', self.student), ('teacher', self.teacher.model)):
            taps = [tap for term in self.terms for tap in getattr(term, role)]
            T = get_time_steps(model)
            first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
            modes = {m: m.training for m in model.modules()}
            model.eval()
            with Recorder(model, taps, role, T) as recorder:
                tapping.run(model, torch.zeros(1, first.in_channels, 64, 64), taps)
            for module, mode in modes.items():
                module.training = mode
            found[role] = recorder
        connectors = nn.ModuleDict()
        for term in self.terms:
            student, teacher = (self._collect(found, term, role) for role in ('student', 'teacher'))
            key = f'model.losses.{term.name}'
            if len(student) != len(teacher):
                raise ValueError(f'{key}: student taps give {len(student)} tensors, teacher taps {len(teacher)}')
            if term.connector is not None:
                connectors[term.name] = nn.ModuleList(
                    build_own(term.connector, in_channels=s.shape[1], out_channels=t.shape[1])
                    for s, t in zip(student, teacher, strict=True)
                )
            for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
                fits = s.shape[2:] == t.shape[2:] and (term.connector is not None or s.shape[1] == t.shape[1])
                if term.loss.time == 'mean' and not fits:
                    sides = [
                        f'{tuple(x.shape[1:])} at the {role} ({", ".join(map(str, getattr(term, role)))})'
                        for role, x in (('student', s), ('teacher', t))
                    ]
                    raise ValueError(
                        f'{key}: for a 64x64 image, tensor {i} is {" and ".join(sides)}: tap stages of equal stride'
                        + ('' if term.connector else ' and width, or set a connector')
                    )
        return connectors

    @staticmethod
    def _collect(recorders: dict, term: Term, role: str) -> list[Tensor]:
        return [x for tap in getattr(term, role) for x in recorders[role].get(tap)]

    def init_weights(self) -> None:
        """Initialise the student by its own rules, load the teacher, then copy weights (level 1)."""
        self.student.init_weights()
        self._is_init = True
        if self.teacher is None:
            return
        self.teacher.load()
        if self.transfer is not False:
            transfer_weights(self.teacher.model, self.student, **self.transfer)
        if not self.terms:
            self.teacher = None  # level 1 alone: the teacher has done its work

    def _apply(self, fn, recurse: bool = True):
        super()._apply(fn, recurse)
        if self.teacher is not None:
            self.teacher.model._apply(fn)
        return self

    def train_step(self, data, optim_wrapper) -> dict[str, Tensor]:
        """As `BaseModel.train_step`; RuntimeError where a runner trains what only the hook keeps and drives."""
        needs_hook = len(self.connectors) or any(term.weight.varies for term in self.terms)
        # what a runner has set, and no loop of one's own
        if needs_hook and not self.hooked and getattr(optim_wrapper, '_max_counts', -1) > 0:
            raise RuntimeError(
                'a Distiller trains only with its hook, which keeps the connectors and tells the weights how far the '
                "training is: add custom_hooks = [dict(type='mmsnn.DistillHook')] to the config"
            )
        return super().train_step(data, optim_wrapper)

    def parse_losses(self, losses: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """The student's own summing and logging."""
        return self.student.parse_losses(losses)

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'):
        """The student's forward; in mode ``loss`` with the distillation terms added."""
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        return self.student(inputs, data_samples, mode=mode)

    def loss(self, inputs: Tensor, data_samples: list | None = None) -> dict[str, Tensor]:
        """The student's losses, and one entry a term, weighted."""
        if not self.terms:
            return self.student.loss(inputs, data_samples)
        self.teacher.load()
        batch = inputs.shape[0]
        taps = [tap for term in self.terms for tap in term.student]
        with Recorder(self.student, taps, 'student', get_time_steps(self.student), batch) as ours:
            losses = dict(self.student.loss(inputs, data_samples))
        taps = [tap for term in self.terms for tap in term.teacher]
        teacher = self.teacher.model
        with torch.no_grad(), Recorder(teacher, taps, 'teacher', get_time_steps(teacher), batch) as theirs:
            tapping.run(teacher, renormalise(inputs, self.student, teacher), taps)
        found = {'student': ours, 'teacher': theirs}
        for term, value in self._values(found, data_samples):
            if term.name in losses:
                raise ValueError(f'model.losses.{term.name}: the student has a loss of that name, choose another')
            losses[term.name] = value * term.weight(self.progress)
        return losses

    def _values(self, found: dict, data_samples) -> Iterator[tuple[Term, Tensor]]:
        for term in self.terms:
            student, teacher = (self._collect(found, term, role) for role in ('student', 'teacher'))
            if term.name in self.connectors:
                student = [c(x) for c, x in zip(self.connectors[term.name], student, strict=True)]
            yield term, term.loss(student, teacher, data_samples)
