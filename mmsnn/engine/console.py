"""What a run says on the console before it begins: warnings, and a summary. All the rest is in the log file."""

import logging
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from mmsnn import __version__
from mmsnn.layers import get_time_steps
from mmsnn.ops import extension

# the folders of mmengine whose files describe environment, config and hooks in hundreds of lines
DESCRIBERS = ('runner', '_strategy')


class Quiet(logging.Filter):
    """Keeps off the console what mmengine says of itself, until ``over`` is set.

    That is environment, config and order of hooks, and that names in its own libraries will go. Single lines, warnings
    and whatever comes from elsewhere pass.
    """

    over = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether ``record`` passes."""
        text = record.getMessage().strip()
        source = Path(record.pathname).parent
        if record.levelno == logging.WARNING:
            return self.over or 'will be deprecated' not in text
        long = record.levelno < logging.WARNING and '\n' in text
        return self.over or not (long and source.parent.name == 'mmengine' and source.name in DESCRIBERS)

    def attach(self, logger: logging.Logger) -> None:
        """Filter what ``logger`` writes to the console, and not what it writes to files."""
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.addFilter(self)


class QuietRunner:
    """What is added to a runner's class, so that its logger is quiet as soon as it exists."""

    quiet: Quiet

    def build_logger(self, *args, **kwargs):
        """Where an ordinary runner makes its logger."""
        logger = super().build_logger(*args, **kwargs)
        self.quiet.attach(logger)
        return logger

    def build_strategy(self, *args, **kwargs):
        """Where a FlexibleRunner makes it."""
        strategy = super().build_strategy(*args, **kwargs)
        self.quiet.attach(strategy.logger)
        return strategy


class Opening(Hook):
    """Says what begins, and ends the quiet with the first iteration.

    Args:
        quiet: of the runner's logger.
    """

    priority = 'VERY_HIGH'

    def __init__(self, quiet: Quiet):
        self.quiet = quiet
        self.said = False

    def before_train(self, runner) -> None:
        """After model and data are built."""
        self._say(runner, 'training', ('train', 'val'))

    def before_val(self, runner) -> None:
        """Alone, or as a part of training."""
        self._say(runner, 'validating', ('val',))

    def before_test(self, runner) -> None:
        """After model and data are built."""
        self._say(runner, 'testing', ('test',))

    def _say(self, runner, what: str, parts: tuple[str, ...]) -> None:
        if not self.said:
            self.said = True
            runner.logger.info(summary(runner, what, parts))

    def _before_iter(self, runner, batch_idx, data_batch=None, mode='train') -> None:
        self.quiet.over = True


def build(cfg: Config, verbose: bool = False) -> Runner:
    """The runner of ``cfg``, quiet on the console until its first iteration unless ``verbose``."""
    kind = RUNNERS.get(cfg.get('runner_type', 'Runner'))
    if kind is None:
        # says what is wrong
        return RUNNERS.build(cfg)
    quiet = Quiet()
    quiet.over = verbose
    runner = type(kind.__name__, (QuietRunner, kind), dict(quiet=quiet)).from_cfg(cfg)
    runner.register_hook(Opening(quiet))
    return runner


def summary(runner, what: str, parts: tuple[str, ...]) -> str:
    """A few lines about the run: config, model, data, device, kernels, and where its files are."""
    rows = {'model': model_line(runner.model.module if is_model_wrapper(runner.model) else runner.model)}
    for part in parts:
        loop = getattr(runner, f'{part}_loop')
        if loop is not None:
            rows[f'{part} data'] = data_line(loop.dataloader)
    if what == 'training':
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            rows['iterations'] = runner.max_iters
        else:
            rows['epochs'] = runner.max_epochs
    rows['device'] = device_line(next(runner.model.parameters()).device)
    rows['work dir'] = runner.work_dir
    if runner.logger.log_file:
        rows['log file'] = f'{runner.logger.log_file} (with environment, config and hooks; --verbose shows them here)'
    title = f'mmsnn {__version__}: {what} {runner.cfg.filename or runner.experiment_name}'
    return '\n'.join([title, *(f'    {name:<12}{value}' for name, value in rows.items())])


def model_line(model: nn.Module) -> str:
    """Names of the model and its backbone, and T; of a Distiller those of the student and of its teachers."""
    student = getattr(model, 'student', model)
    backbone = getattr(student, 'backbone', None)
    inner = [] if backbone is None else [type(backbone).__name__]
    line = f'{type(student).__name__} ({", ".join([*inner, f"T={get_time_steps(student)}"])})'
    teachers = [type(teacher.model).__name__ for teacher in getattr(model, 'teachers', {}).values()]
    return line + (f', taught by {" and ".join(teachers)}' if teachers else '')


def data_line(loader) -> str:
    """Size of a loader's dataset, and of a batch."""
    processes = get_world_size()
    line = f'{len(loader.dataset)} samples in batches of {loader.batch_sampler.batch_size}'
    return line + (f' on each of {processes} processes' if processes > 1 else '')


def device_line(device: torch.device) -> str:
    """The device, and which kernels serve the neurons on it; a warning of the ops says why they are not compiled."""
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type.upper()
    line = extension.serving(device.type)
    return f'{name}; neurons: {line if line.startswith("compiled") else "plain PyTorch"}'
