"""The hook that a Distiller needs in a runner."""

import logging
import math
from numbers import Real

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import IterBasedTrainLoop
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

from mmsnn.distill.schedules import Progress
from mmsnn.distill.teacher import Teacher, untouched_rng
from mmsnn.registry import HOOKS


@HOOKS.register_module()
class DistillHook(Hook):
    """Sets the Distiller's progress in every iteration, and saves its connectors in checkpoints, beside the student.

    In a training by iterations an epoch of the progress is once through the data.

    Args:
        teacher_accuracy: whether the first validation of a run also measures every teacher that the losses use. The log
            of each validation then shows the teacher's metrics (``teacher/accuracy/top1`` ...) beside the student's.

    Raises:
        TypeError: the model is not a Distiller.
        ValueError: a resumed checkpoint holds no connectors, or those of another distillation.
    """

    priority = 'NORMAL'

    def __init__(self, teacher_accuracy: bool = True):
        self.teacher_accuracy = teacher_accuracy
        self.metrics: dict[str, float] | None = None
        self.batches = 1

    def _model(self, runner):
        model = runner.model
        # test.py --tta of the task libraries wraps the config's model.
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        if not hasattr(model, 'connectors'):
            raise TypeError(f'DistillHook: model is a {type(model).__name__}, not an mmsnn.Distiller: remove the hook')
        return model

    def before_run(self, runner) -> None:
        self._model(runner).hooked = True

    def before_train(self, runner) -> None:
        self.batches = batches(runner.train_dataloader)
        for teacher in self._model(runner).teachers.values():
            if teacher.random:
                print_log(f'{teacher.key[1]} {teacher.random}', logger='current', level=logging.WARNING)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        if not isinstance(runner.train_loop, IterBasedTrainLoop):
            self._model(runner).progress = Progress(runner.epoch, runner.iter, batch_idx, runner.max_epochs or 0)
            return
        # Such a loop counts one epoch, however often it goes through the data.
        i, n = runner.iter, self.batches
        self._model(runner).progress = Progress(i // n, i, i % n, math.ceil(runner.max_iters / n))

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        if not self.teacher_accuracy:
            return
        if self.metrics is None:
            self.metrics = self._measure(runner)
        for name, value in self.metrics.items():
            runner.message_hub.update_scalar(f'val/{name}', value, resumed=False)

    def _measure(self, runner) -> dict[str, float]:
        """The metrics of all teachers on the validation set, without an effect on the training."""
        model, measured = self._model(runner), {}
        for name, teacher in model.teachers.items():
            try:
                with untouched_rng():
                    metrics = evaluate(teacher, model.student, runner.val_loop)
            # A missing figure in a log should not end a training, and what a metric has collected of the teacher
            # should not be taken for the student's.
            except Exception as error:
                for metric in runner.val_loop.evaluator.metrics:
                    metric.results.clear()
                print_log(
                    f"{teacher.key[0]}: its accuracy could not be measured ({error}); dict(type='mmsnn.DistillHook', "
                    'teacher_accuracy=False) does not try',
                    logger='current',
                    level=logging.WARNING,
                )
                continue
            # mmseg's metrics are numpy scalars.
            measured.update({f'{name}/{key}': float(v) for key, v in metrics.items() if isinstance(v, Real)})
        return measured

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        hub = checkpoint.get('message_hub')
        if self.metrics and hub:
            # The student's checkpoint does not contain the teachers' metrics.
            kept = {k: v for k, v in hub['resumed_keys'].items() if k.removeprefix('val/') not in self.metrics}
            checkpoint['message_hub'] = {**hub, 'resumed_keys': kept}
        if isinstance(runner.model, FSDP):
            # A process has only its shard of the connectors; the whole connectors are in the state dict.
            whole = checkpoint['state_dict']
            names = [key for key in whole if key.startswith('connectors.')]
            state = {key.removeprefix('connectors.'): whole.pop(key) for key in names}
        else:
            state = self._model(runner).connectors.state_dict()
        if state:
            checkpoint['connectors'] = {k: v.cpu() for k, v in state.items()}

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        connectors = self._model(runner).connectors
        if 'connectors' in checkpoint and isinstance(runner.model, FSDP):
            checkpoint['state_dict'].update({f'connectors.{k}': v for k, v in checkpoint['connectors'].items()})
        elif 'connectors' in checkpoint:
            self._load(connectors, checkpoint['connectors'], getattr(runner, '_resume', False))
        elif len(connectors) and getattr(runner, '_resume', False):
            raise ValueError(
                'this checkpoint holds no connectors, so the distillation cannot continue from it: load it as weights '
                '(load_from) instead of resuming'
            )

    @staticmethod
    def _load(connectors, saved: dict, resumes: bool) -> None:
        own = connectors.state_dict()
        fitting = {key: x for key, x in saved.items() if key in own and own[key].shape == x.shape}
        terms = sorted({key.partition('.')[0] for key in {*own, *saved} - set(fitting)})
        if terms and resumes:
            raise ValueError(
                f'the connectors of {", ".join(terms)} in this checkpoint are those of another distillation, so this '
                'one cannot continue from it: resume with the config it was trained with, or load it as weights '
                '(load_from)'
            )
        # Those of a term belong together.
        fitting = {key: x for key, x in fitting.items() if key.partition('.')[0] not in terms}
        with torch.no_grad():
            connectors.load_state_dict(fitting, strict=False)
        if terms:
            print_log(
                f'connectors of another distillation are not loaded: {", ".join(terms)}',
                logger='current',
                level=logging.WARNING,
            )


def batches(loader) -> int:
    """Iterations of a process that go once through the data."""
    # mmengine's endless sampler has the length of the data set in every process.
    shared = get_world_size() if isinstance(loader.sampler, InfiniteSampler) else 1
    return math.ceil(len(loader) / shared)


def evaluate(teacher: Teacher, student, loop) -> dict:
    """The metrics of a validation loop for a teacher, whose images come from the student's data preprocessor."""
    for batch in loop.dataloader:
        loop.evaluator.process(data_samples=teacher.predict(batch, student), data_batch=batch)
    return loop.evaluator.evaluate(len(loop.dataloader.dataset))
