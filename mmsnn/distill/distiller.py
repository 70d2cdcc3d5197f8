"""Knowledge distillation around any OpenMMLab task model."""

import copy
from contextlib import ExitStack
from typing import Any

import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from mmsnn.checkpoints.transfer import transfer_weights
from mmsnn.layers import Readout, get_time_steps, read_short, set_time_steps
from mmsnn.models.wrapper import Transparent
from mmsnn.registry import MODELS, without_scope

from .losses.base import MismatchError
from .recording import Recorder
from .running import run
from .schedules import Progress, Schedule
from .teacher import Teacher, renormalise, untouched_rng
from .terms import Term, bind, draft, first, make_connectors


@MODELS.register_module()
class Distiller(Transparent, BaseModel):
    """A student task model, taught by a frozen teacher.

    From outside it looks like the student: its ``state_dict`` holds only the student's weights under the student's
    names, attributes that it does not have itself are looked up in the student, and prediction runs the student.
    Connectors are trained together with the student. `DistillHook` (mmsnn.engine.hooks) saves them for resuming and
    tells varying weights how far the training is; where there are any of these, a runner does not train without it. The
    teacher is not a submodule, so it appears in no checkpoint, no optimizer and no DDP reducer. Without losses and
    transfer, training equals that of the plain student bit for bit.

    Example::

        model = dict(
            type='mmsnn.Distiller', student=_base_.model, teacher='mmsnn::ann/retinanet_r34_coco.py',
            teacher_checkpoint='work_dirs/retinanet_r34_coco/epoch_12.pth', transfer=True,
            losses=dict(
                loss_feature=dict(type='FeatureMSE', student='backbone.layer4', teacher='backbone.layer4',
                                  connector=dict(type='ConvBN'), weight=1.0)))

    Args:
        student: config of the task model (mmdet, mmseg, mmpretrain).
        teacher: config of the teacher's task model, or the path of its config file. It may be left out where neither
            ``transfer`` nor a loss needs a teacher.
        teacher_checkpoint: the teacher's weights: a file, a URL or ``torchvision://NAME``.
        teachers: further teachers, ``name=dict(config=..., checkpoint=...)``; a term selects one by
            ``from_teacher=name``. The first teacher (``teacher`` where it is given) is the default, and its weights are
            the ones that ``transfer`` copies.
        losses: one entry per term, ``name=dict(type=LOSS, student=TAPS, teacher=TAPS, connector=..., weight=...)``.
            TAPS is a module name (see `Tap`) or a list of them; ``weight`` is a number or the arguments of a
            `Schedule`. A name without "loss" in it gets the prefix ``loss_``, because the task libraries add up the
            entries whose names contain "loss". ``connector`` is one config for all taps, or a list with one entry per
            tap (None: no connector). An entry that is None is skipped. For `FiringRate`, ``student`` names neurons and
            may be left out.
        transfer: level 1: copy the teacher's weights into the student after the student's initialisation. True, or a
            dict of arguments of `transfer_weights`.
        task_weight: weight of the student's own losses, a number or the arguments of a `Schedule`.
        short_T: number of time steps at inference, for a network that is trained with more (TSSD): validation and
            predictions run so many, on the first frames of event data. In training, everything after the readout,
            including heads and their losses, processes a batch of twice the size: the outputs after ``short_T`` steps,
            followed by those after all steps. Losses are means over both halves; ``task_weight=2`` makes them sums.
        data_preprocessor: passed to the student unless the student has one (a runner gives a top-level
            ``data_preprocessor`` to the outermost model).

    Raises:
        ValueError: a tap names no module, shapes or numbers of classes do not fit, a key is missing, ``short_T`` is out
            of range, or ``short_T`` meets a norm that mixes time steps (TEBN); the message names the key.
        TypeError: an argument that a Distiller does not have, for example one that belongs into ``student``.
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
        short_T: int | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
        **unknown,
    ):
        super().__init__(init_cfg=init_cfg)
        if unknown:
            misplaced = ', '.join(f'model.{key}' for key in unknown)
            meant = ', '.join(f'model.student.{key}' for key in unknown)
            raise TypeError(f"{misplaced}: a Distiller takes no such argument; if the student's is meant, set {meant}")
        del self._modules['data_preprocessor']  # the student's is used instead
        # Models write into their configs (DETR writes class weights), and the teacher's config may share dicts with it.
        student = copy.deepcopy(student)
        if data_preprocessor is not None:
            student.setdefault('data_preprocessor', data_preprocessor)
        self.student = ROOT_MODELS.build(student)
        if not isinstance(transfer, (bool, dict, type(None))):
            raise TypeError(f'model.transfer must be True, False or a dict, got {transfer!r}')
        self.transfer = without_scope(transfer) if isinstance(transfer, dict) else {} if transfer else None
        self.progress = Progress()
        self.hooked = False
        self._step: int | None = None
        self.task_weight = Schedule.of(task_weight)
        self.short_T = short_T
        if short_T is not None:
            self._check_short_T(short_T)
        self.teachers: dict[str, Teacher] = {}
        self.terms: list[Term] = []
        connectors = nn.ModuleDict()
        named: dict[str, dict[str, Any]] = {}
        if teacher is not None:
            named['teacher'] = dict(config=teacher, checkpoint=teacher_checkpoint)
        named.update({name: without_scope(cfg) for name, cfg in without_scope(teachers or {}).items()})
        with untouched_rng():
            configs = {name: cfg for name, cfg in without_scope(losses or {}).items() if cfg is not None}
            self.terms = [draft(name, cfg, named, short_T) for name, cfg in configs.items()]
            needed = {term.from_teacher for term in self.terms} - {None}
            if self.transfer is not None:
                needed.add(first(named, 'model.transfer'))
            self.teachers = {name: Teacher(**cfg, key=name) for name, cfg in named.items() if name in needed}
            models = {'student': self.student, **{name: t.model for name, t in self.teachers.items()}}
            for term in self.terms:
                bind(term, models)
            if self.terms:
                with torch.no_grad():
                    connectors = make_connectors(self.terms, models, short_T)
        self.connectors = connectors
        self._owner = id(self)
        self._make_transparent()

    @property
    def teacher(self) -> Teacher | None:
        """The first teacher that is still needed; None without one, or when its weights have been copied and no loss
        needs it."""
        return next(iter(self.teachers.values()), None)

    def _check_short_T(self, short_T: int) -> None:
        T = get_time_steps(self.student)
        if isinstance(short_T, bool) or not isinstance(short_T, int) or not 1 <= short_T < T:
            raise ValueError(
                f'model.short_T={short_T!r} must be a number of time steps below the T={T} of training: set '
                "model.short_T, or the student's backbone.T"
            )
        named = dict(self.student.named_modules())
        mixing = [f'{name} ({type(m).__name__})' for name, m in named.items() if getattr(m, 'mixes_time', False)]
        if mixing:
            raise ValueError(
                f'model.short_T={short_T}: the first steps of {mixing[0]} and {len(mixing) - 1} more are not what '
                "fewer steps would give, because these norms mix time: set norm_cfg to dict(type='BN') or "
                "dict(type='mmsnn.TDBN')"
            )
        if not any(isinstance(m, Readout) and m.mode == 'mean' for m in named.values()):
            raise ValueError("model.short_T needs a backbone with readout='mean', whose output it reads twice")

    def init_weights(self) -> None:
        """Initialise the student by its own rules, load the teacher, then copy weights (level 1)."""
        self.student.init_weights()
        if self.is_init:
            # Teachers that have been copied may be gone, and the student may have learned.
            return
        self._is_init = True
        for teacher in self.teachers.values():
            teacher.load()
        if self.transfer is not None:
            transfer_weights(next(iter(self.teachers.values())).model, self.student, **self.transfer)
        # A teacher that no loss term uses is dropped once its weights have been copied.
        self.teachers = {
            name: t for name, t in self.teachers.items() if any(term.from_teacher == name for term in self.terms)
        }

    def _apply(self, fn, recurse: bool = True):
        super()._apply(fn, recurse)
        # copies, as averages of weights make them, share the teacher until they move
        if self._owner != id(self):
            self.teachers, self._owner = {name: t.apart() for name, t in self.teachers.items()}, id(self)
        for teacher in self.teachers.values():
            teacher.model._apply(fn)
        for term in self.terms:
            term.loss._apply(fn)
        return self

    def _runner_trains(self) -> bool:
        """Whether a Runner counts these steps; only a Runner sets ``iter``, and only the second step shows it."""
        before, self._step = self._step, MessageHub.get_current_instance().get_info('iter')
        return before is not None and self._step is not None and self._step > before

    def parse_losses(self, losses: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum and log the losses as the student does. A training step calls it once, also one of DDP.

        Raises:
            RuntimeError: a Runner trains without `DistillHook`, and there are connectors, varying weights or losses
                that need the progress of the training.
        """
        varies = any(term.weight.varies or term.loss.needs_progress for term in self.terms)
        needs_hook = len(self.connectors) or varies or self.task_weight.varies
        if needs_hook and not self.hooked and self._runner_trains():
            raise RuntimeError(
                'a Distiller trains only with its hook, which keeps the connectors and tells the weights how far the '
                "training is: add custom_hooks = [dict(type='mmsnn.DistillHook')] to the config"
            )
        return self.student.parse_losses(losses)

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'):
        """The student's forward; mode ``loss`` adds the distillation terms, other modes run ``short_T`` steps."""
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if self.short_T is None:
            return self.student(inputs, data_samples, mode=mode)
        T = get_time_steps(self.student)
        steps = min(self.short_T, T)
        set_time_steps(self.student, steps)
        try:
            # event data has as many frames as the training has steps
            frames = isinstance(inputs, Tensor) and inputs.dim() == 5
            return self.student(inputs[:, :steps] if frames else inputs, data_samples, mode=mode)
        finally:
            set_time_steps(self.student, T)

    def loss(self, inputs: Tensor, data_samples: list | None = None) -> dict[str, Tensor]:
        """The student's weighted losses and one weighted entry per term, averaged over the views of each image."""
        if not self.terms and self.short_T is None:
            return self._weighted(self.student.loss(inputs, data_samples))
        taps = [tap for term in self.terms for tap in term.student]
        T, recorders = get_time_steps(self.student), {}
        samples = data_samples if self.short_T is None or data_samples is None else [*data_samples, *data_samples]
        # Self-supervised models train on several views of each image: the teacher gets the inputs of the student's
        # backbone, which the recorder collects.
        views = [inputs] if isinstance(inputs, Tensor) else []
        several = dict(views=views) if not views else dict(batch_size=len(inputs))
        recorder = Recorder(self.student, taps, 'student', T, short_T=self.short_T, **several)
        with ExitStack() as around:
            for term in self.terms:
                if term.watched is not None:
                    recorders[term.name] = around.enter_context(term.loss.watch(self.student, *term.watched))
            around.enter_context(read_short(self.student, self.short_T))
            around.enter_context(recorder)
            losses = self._weighted(dict(self.student.loss(inputs, samples)))
        recorder.follow_pipes()
        recorders['student'] = recorder
        for name, teacher in self.teachers.items():
            teacher.load()
            taps = [tap for term in self.terms for tap in term.taps(name)]
            with torch.no_grad(), Recorder(teacher.model, taps, name, get_time_steps(teacher.model)) as recorder:
                for images in views:
                    recorder.batch_size = len(images)
                    run(teacher.model, renormalise(images, self.student, teacher.model), taps, name)
            with torch.no_grad():
                recorder.follow_pipes()
            recorders[name] = recorder
        for term in self.terms:
            if term.name in losses:
                raise ValueError(f'{term.key}: the student has a loss of this name; choose another name')
            term.loss.progress = self.progress
            if term.watched is not None:
                recorders[term.name].images = sum(map(len, views))
            values = [
                self._compare(term, student, teacher, data_samples)
                for student, teacher in term.collect(recorders, len(views))
            ]
            losses[term.name] = sum(values) / len(values) * term.weight(self.progress)
        return losses

    def _compare(self, term, student: list[Tensor], teacher: list[Tensor], data_samples: list | None) -> Tensor:
        student = term.connect(self.connectors, student, teacher)
        try:
            return term.loss(student, teacher, data_samples)
        except (MismatchError, RuntimeError) as error:
            ours, theirs = ([tuple(x.shape) for x in side] for side in (student, teacher))
            if isinstance(error, RuntimeError) and (ours == theirs or 'size of tensor' not in str(error)):
                raise
            if ours == theirs:
                raise ValueError(f'{term.key}: {error}') from error
            raise ValueError(
                f'{term.key}: {type(term.loss).__name__} cannot compare {ours} of the student with {theirs} of the '
                'teacher. Networks that mask their images at random, each for itself, have no features in common'
            ) from error

    def _weighted(self, losses: dict) -> dict:
        """The student's own losses times ``task_weight``."""
        weight = self.task_weight(self.progress)
        if weight == 1:
            return losses

        def scaled(value):
            return [v * weight for v in value] if isinstance(value, (list, tuple)) else value * weight

        return {name: scaled(value) if 'loss' in name else value for name, value in losses.items()}
