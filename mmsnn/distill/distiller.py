"""Knowledge distillation around any OpenMMLab task model."""

from dataclasses import dataclass

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from mmsnn.layers import Readout, blank_image, evaluating, get_time_steps, read_prefix
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
    """One line of ``losses``: taps on both sides, the loss and its weight; connectors lie in the Distiller.

    ``of`` names the teacher, None where the loss needs none.
    """

    name: str
    loss: DistillLoss
    student: list[Tap]
    teacher: list[Tap]
    connector: dict | None
    weight: Schedule
    of: str | None

    def taps(self, role: str) -> list[Tap]:
        """The student's taps, or those of the teacher called ``role``."""
        return self.student if role == 'student' else self.teacher if role == self.of else []


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
        teacher: config of the teacher's task model, or the path of its config file. Not needed without transfer and
            losses that look at a teacher.
        teacher_checkpoint: the teacher's weights: a file, a URL or ``torchvision://NAME``.
        teachers: further ones, ``name=dict(config=..., checkpoint=...)``; terms choose with ``of=name``. The first
            (``teacher`` where it is given) is the default, and the one whose weights are copied.
        losses: one entry a term, ``name=dict(type=LOSS, student=TAPS, teacher=TAPS, connector=..., weight=...)``. A tap
            is a module name (see `Tap`) or a list of them; ``weight`` a number or a `Schedule`. Names without "loss"
            get it as prefix, because the task libraries sum what has it in its name. ``connector`` is a config for all
            taps, or a list of one each (None: none).
        transfer: level 1, copy the teacher's weights into the student after its initialisation; True or arguments of
            `transfer_weights`.
        task_weight: weight of the student's own losses, a number or a `Schedule`.
        prefix: for a network that will run fewer time steps than it is trained with (TSSD): everything behind the
            readout, heads and their losses included, then sees a batch of twice the size, ``[after prefix steps; after
            all]``. The losses are means over both halves: ``task_weight=2`` makes them sums.
        data_preprocessor: handed to the student unless it has one (runners put a top-level one on the outermost model).

    Raises:
        ValueError: a tap names no module, shapes do not fit, or a key is missing; ``prefix`` is out of range, or the
            student has a norm that mixes time steps (TEBN); the message names it.
    """

    inner = 'student'
    hidden = ('connectors',)

    def __init__(
        self,
        student: dict,
        teacher: str | dict | None = None,
        teacher_checkpoint: str | None = None,
        teachers: dict | None = None,
        losses: dict | None = None,
        transfer: bool | dict = False,
        task_weight: float | dict = 1.0,
        prefix: int | None = None,
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
        self.task_weight = Schedule.of(task_weight)
        self.prefix = prefix
        if prefix is not None:
            self._check_prefix()
        self.teachers: dict[str, Teacher] = {}
        self.terms: list[Term] = []
        connectors = nn.ModuleDict()
        named = {} if teacher is None else {'teacher': dict(config=teacher, checkpoint=teacher_checkpoint)}
        named.update(teachers or {})
        with untouched_rng():
            drafts = [self._draft(name, dict(cfg), named) for name, cfg in (losses or {}).items()]
            needed = {draft[0].of for draft in drafts} - {None}
            if transfer is not False:
                needed.add(self._first(named, 'model.transfer'))
            self.teachers = {name: Teacher(**cfg, key=name) for name, cfg in named.items() if name in needed}
            self.terms = [self._bind(*draft) for draft in drafts]
            if self.terms:
                with torch.no_grad():
                    connectors = self._make_connectors()
        self.connectors = connectors
        self._make_transparent()

    @property
    def teacher(self) -> Teacher | None:
        """The first teacher, whose weights are copied; None where there is none, or none any more."""
        return next(iter(self.teachers.values()), None)

    def _check_prefix(self) -> None:
        T = get_time_steps(self.student)
        if isinstance(self.prefix, bool) or not isinstance(self.prefix, int) or not 1 <= self.prefix < T:
            raise ValueError(
                f'model.prefix={self.prefix!r} must be a number of time steps below the T={T} of training: set '
                "model.prefix, or the student's backbone.T"
            )
        named = dict(self.student.named_modules())
        mixing = [f'{name} ({type(m).__name__})' for name, m in named.items() if getattr(m, 'mixes_time', False)]
        if mixing:
            raise ValueError(
                f'model.prefix={self.prefix}: the first steps of {mixing[0]} and {len(mixing) - 1} more are not what '
                "fewer steps would give, because these norms mix time: set norm_cfg to dict(type='BN') or "
                "dict(type='mmsnn.TDBN')"
            )
        if not any(isinstance(m, Readout) and m.mode == 'mean' for m in named.values()):
            raise ValueError("model.prefix needs a backbone with readout='mean', whose output it reads twice")

    @staticmethod
    def _first(named: dict, key: str) -> str:
        if not named:
            raise ValueError(f'model.teacher is missing: {key} needs the config of a teacher')
        return next(iter(named))

    def _draft(self, name: str, cfg: dict, named: dict) -> tuple[Term, str]:
        """A term as its config says; teachers are not built yet."""
        key = f'model.losses.{name}'
        try:
            student = self._pop(cfg, 'student')
            teacher, of = cfg.pop('teacher', None), cfg.pop('of', None)
            connector, weight = cfg.pop('connector', None), cfg.pop('weight', 1.0)
            loss = build_own(cfg)
            if not loss.needs_teacher:
                teacher = []
            elif teacher is None:
                raise KeyError('teacher')
            else:
                of = of or self._first(named, key)
                if of not in named:
                    raise ValueError(f'of={of!r} is none of the teachers {", ".join(named)}')
            if loss.time == 'prefix' and self.prefix is None:
                raise ValueError('model.prefix is missing: set the number of time steps at inference')
            sides = [[Tap.parse(t, loss.time) for t in ([v] if isinstance(v, str) else v)] for v in (student, teacher)]
            if loss.needs_teacher and len(sides[0]) != len(sides[1]):
                raise ValueError(f'{len(sides[0])} student taps face {len(sides[1])} of the teacher')
            title = name if 'loss' in name else f'loss_{name}'
            return Term(title, loss, *sides, connector, Schedule.of(weight), of), key
        except KeyError as error:
            if error.args[0] in ('student', 'teacher'):
                raise ValueError(f'{key}.{error.args[0]} is missing: name the module to tap') from None
            raise ValueError(f'{key}: {error.args[0]}') from error
        except (TypeError, ValueError) as error:
            message = str(error.args[0])
            raise ValueError(message if message.startswith('model.') else f'{key}: {message}') from error

    @staticmethod
    def _pop(cfg: dict, name: str):
        if name not in cfg:
            raise KeyError(name)
        return cfg.pop(name)

    def _model(self, role: str) -> nn.Module:
        return self.student if role == 'student' else self.teachers[role].model

    def _bind(self, term: Term, key: str) -> Term:
        try:
            for role in filter(None, ('student', term.of)):
                for tap in term.taps(role):
                    tapping.resolve(self._model(role), tap, role)
            term.loss.bind(self.student, self._model(term.of) if term.of else None)
            return term
        except ValueError as error:
            raise ValueError(f'{key}: {error.args[0]}') from error

    def _make_connectors(self) -> nn.ModuleDict:
        """Connectors as wide as a forward of one blank image through both models says."""
        found = {}
        for role in ('student', *self.teachers):
            model = self._model(role)
            taps = [tap for term in self.terms for tap in term.taps(role)]
            T = get_time_steps(model)
            prefix = self.prefix if role == 'student' else None
            recorder = Recorder(model, taps, role, T, prefix=prefix)
            with evaluating(model), read_prefix(model, prefix):
                with recorder:
                    tapping.run(model, blank_image(model, 64), taps)
                recorder.follow_pipes()
            found[role] = recorder
        connectors = nn.ModuleDict()
        for term in self.terms:
            student, teacher = self._collect(found, term)
            key = f'model.losses.{term.name}'
            counts = [len(found['student'].get(tap)) for tap in term.student]
            if term.of is None:
                if term.connector is not None:
                    connectors[term.name] = self._build(term, key, counts, student, [None] * len(student))
                continue
            if len(student) != len(teacher):
                raise ValueError(f'{key}: student taps give {len(student)} tensors, teacher taps {len(teacher)}')
            if term.connector is not None:
                connectors[term.name] = self._build(term, key, counts, student, teacher)
            if term.loss.maps:
                self._check_maps(term, key, student, teacher)
            if term.loss.time == 'mean' and term.loss.same_shape:
                self._check_shapes(term, key, connectors, student, teacher)
        return connectors

    @staticmethod
    def _check_maps(term: Term, key: str, student: list, teacher: list) -> None:
        for role, tensors in (('student', student), (term.of, teacher)):
            for i, x in enumerate(tensors):
                if x.dim() != 4:
                    raise ValueError(
                        f'{key}: {type(term.loss).__name__} compares maps [B, C, H, W], but tensor {i} is '
                        f'{tuple(x.shape)} at the {role} ({", ".join(map(str, term.taps(role)))}). Tokens of a '
                        "transformer are no maps: tap what gives some (mmpretrain's ViT with out_type='featmap': "
                        'backbone[0])'
                    )

    @staticmethod
    def _check_shapes(term: Term, key: str, connectors: nn.ModuleDict, student: list, teacher: list) -> None:
        links = connectors[term.name] if term.name in connectors else [nn.Identity()] * len(student)
        for i, (link, s, t) in enumerate(zip(links, student, teacher, strict=True)):
            training = link.training
            fits = link.eval()(s).shape[1:] == t.shape[1:]
            link.train(training)
            if not fits:
                sides = [
                    f'{tuple(x.shape[1:])} at the {role} ({", ".join(map(str, term.taps(role)))})'
                    for role, x in (('student', s), (term.of, t))
                ]
                raise ValueError(
                    f'{key}: for a 64x64 image, tensor {i} is {" and ".join(sides)}: tap stages of equal stride'
                    + ('' if term.connector else ' and width, or set a connector')
                )

    @staticmethod
    def _build(term: Term, key: str, counts: list[int], student: list[Tensor], teacher: list) -> nn.ModuleList:
        """A connector for each tensor; a list of configs names one a tap, None leaves its tensors as they are."""
        configs = term.connector if isinstance(term.connector, (list, tuple)) else [term.connector] * len(counts)
        if len(configs) != len(counts):
            raise ValueError(f'{key}.connector: {len(configs)} connectors face {len(counts)} taps')
        configs = [cfg for cfg, count in zip(configs, counts, strict=True) for _ in range(count)]
        dim, built = 2 if term.loss.time == 'steps' else 1, []
        for cfg, s, t in zip(configs, student, teacher, strict=True):
            # without a teacher as wide as the term's first tensor, a head's answer
            widths = dict(in_channels=s.shape[dim], out_channels=student[0].shape[dim] if t is None else t.shape[1])
            try:
                built.append(nn.Identity() if cfg is None else build_own({**widths, **cfg}))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f'{key}.connector: {error.args[0]}') from error
        return nn.ModuleList(built)

    def _connect(self, term: Term, tensors: list[Tensor]) -> list[Tensor]:
        """The student's tensors through the term's connectors; steps are folded, as everywhere."""
        if term.name not in self.connectors:
            return tensors
        pairs = zip(self.connectors[term.name], tensors, strict=True)
        if term.loss.time != 'steps':
            return [connector(x) for connector, x in pairs]
        return [connector(x.flatten(0, 1)).unflatten(0, x.shape[:2]) for connector, x in pairs]

    @staticmethod
    def _collect(found: dict[str, Recorder], term: Term) -> list[list[Tensor]]:
        """The tensors of a term, the student's and the teacher's."""
        roles = ('student', term.of)
        return [[x for tap in (term.taps(r) if r else ()) for x in found[r].get(tap)] for r in roles]

    def init_weights(self) -> None:
        """Initialise the student by its own rules, load the teacher, then copy weights (level 1)."""
        self.student.init_weights()
        self._is_init = True
        for teacher in self.teachers.values():
            teacher.load()
        if self.transfer is not False:
            transfer_weights(self.teacher.model, self.student, **self.transfer)
        # level 1 alone: the teacher has done its work
        self.teachers = {name: t for name, t in self.teachers.items() if any(term.of == name for term in self.terms)}

    def _apply(self, fn, recurse: bool = True):
        super()._apply(fn, recurse)
        for teacher in self.teachers.values():
            teacher.model._apply(fn)
        for term in self.terms:
            term.loss._apply(fn)
        return self

    def train_step(self, data, optim_wrapper) -> dict[str, Tensor]:
        """As `BaseModel.train_step`; RuntimeError where a runner trains what only the hook keeps and drives."""
        varies = any(term.weight.varies or term.loss.needs_progress for term in self.terms)
        needs_hook = len(self.connectors) or varies or self.task_weight.varies
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
        if not self.terms and self.prefix is None:
            return self._weighted(self.student.loss(inputs, data_samples))
        batch, found = inputs.shape[0], {}
        taps = [tap for term in self.terms for tap in term.student]
        T = get_time_steps(self.student)
        samples = data_samples if self.prefix is None or data_samples is None else [*data_samples, *data_samples]
        recorder = Recorder(self.student, taps, 'student', T, batch, self.prefix)
        with read_prefix(self.student, self.prefix), recorder:
            losses = self._weighted(dict(self.student.loss(inputs, samples)))
        recorder.follow_pipes()
        found['student'] = recorder
        for name, teacher in self.teachers.items():
            teacher.load()
            taps = [tap for term in self.terms for tap in term.taps(name)]
            with torch.no_grad(), Recorder(teacher.model, taps, name, get_time_steps(teacher.model), batch) as recorder:
                tapping.run(teacher.model, renormalise(inputs, self.student, teacher.model), taps)
            with torch.no_grad():
                recorder.follow_pipes()
            found[name] = recorder
        for term in self.terms:
            if term.name in losses:
                raise ValueError(f'model.losses.{term.name}: the student has a loss of that name, choose another')
            student, teacher = self._collect(found, term)
            term.loss.progress = self.progress
            value = term.loss(self._connect(term, student), teacher, data_samples)
            losses[term.name] = value * term.weight(self.progress)
        return losses

    def _weighted(self, losses: dict) -> dict:
        """The student's own losses times ``task_weight``."""
        weight = self.task_weight(self.progress)
        if weight == 1:
            return losses

        def scaled(value):
            return [v * weight for v in value] if isinstance(value, (list, tuple)) else value * weight

        return {name: scaled(value) if 'loss' in name else value for name, value in losses.items()}
