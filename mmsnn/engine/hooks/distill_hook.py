"""What a Distiller needs from the runner."""

import logging

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper

from mmsnn.distill.schedules import Progress
from mmsnn.registry import HOOKS


@HOOKS.register_module()
class DistillHook(Hook):
    """Tells the Distiller how far the training is, and keeps its connectors in the checkpoint, beside the student.

    Raises:
        TypeError: the model is no Distiller.
    """

    priority = 'NORMAL'

    def _model(self, runner):
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if not hasattr(model, 'connectors'):
            raise TypeError(f'DistillHook: model is a {type(model).__name__}, not an mmsnn.Distiller: remove the hook')
        return model

    def before_run(self, runner) -> None:
        self._model(runner).hooked = True

    def before_train(self, runner) -> None:
        for teacher in self._model(runner).teachers.values():
            if teacher.has_weights:
                continue
            print_log(
                f'{teacher.key[1]} is not set and the teacher has no pretrained init_cfg: a teacher with random '
                'weights teaches noise. Train it with its config in configs/ann and set '
                f'--cfg-options {teacher.key[1]}=FILE',
                logger='current',
                level=logging.WARNING,
            )

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self._model(runner).progress = Progress(runner.epoch, runner.iter, batch_idx, runner.max_epochs or 0)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        state = self._model(runner).connectors.state_dict()
        if state:
            checkpoint['connectors'] = {k: v.cpu() for k, v in state.items()}

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        connectors = self._model(runner).connectors
        if 'connectors' in checkpoint:
            with torch.no_grad():
                connectors.load_state_dict(checkpoint['connectors'])
        elif len(connectors) and getattr(runner, '_resume', False):
            raise ValueError(
                'this checkpoint holds no connectors, so its distillation cannot go on from it: load it as weights '
                '(load_from) instead of resuming'
            )
