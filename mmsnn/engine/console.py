"""The console output of a run before its first iteration: warnings and a summary. All else goes to the log file."""

import logging
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from mmsnn import __version__
from mmsnn.layers import get_time_steps
from mmsnn.ops import extension

# Folders of mmengine whose files log environment, config and hooks in hundreds of lines.
DESCRIBERS = ('runner', '_strategy')


class Quiet(logging.Filter):
    """Hides long messages and deprecation warnings of mmengine from the console, until ``over`` is set.

    The long messages are the environment, the config and the order of hooks. Single lines, other warnings, and messages
    from elsewhere are shown.
    """

    over = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether ``record`` is shown."""
        text = record.getMessage().strip()
        source = Path(record.pathname).parent
        if record.levelno == logging.WARNING:
            return self.over or 'will be deprecated' not in text
        long = record.levelno < logging.WARNING and '\n' in text
        return self.over or not (long and source.parent.name == 'mmengine' and source.name in DESCRIBERS)

    def attach(self, logger: logging.Logger) -> None:
        """Filter what ``logger`` writes to the console, but not what it writes to files."""
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.addFilter(self)


class Early(logging.Handler):
    """Keeps what is said before a run has its log file, and then writes it there."""

    def __init__(self):
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.logger = MMLogger.get_current_instance()
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep ``record``."""
        self.records.append(record)

    def write_to(self, logger: logging.Logger | None) -> None:
        """Write all records into the files of ``logger``, and keep no more."""
        self.logger.removeHandler(self)
        for handler in logger.handlers if logger else ():
            if isinstance(handler, logging.FileHandler):
                for record in self.records:
                    handler.handle(record)
        self.records = []


class QuietRunner:
    """Mixin for a runner's class that attaches the filter to its logger as soon as this exists."""

    quiet: Quiet

    def build_logger(self, *args, **kwargs):
        """Build the logger of an ordinary runner."""
        logger = super().build_logger(*args, **kwargs)
        self.quiet.attach(logger)
        return logger

    def build_strategy(self, *args, **kwargs):
        """Build the strategy of a FlexibleRunner, which has the logger."""
        strategy = super().build_strategy(*args, **kwargs)
        self.quiet.attach(strategy.logger)
        return strategy


class Opening(Hook):
    """Hook that logs a summary at the beginning, and switches the filter off at the first iteration.

    Args:
        quiet: the filter of the runner's logger.
    """

    priority = 'VERY_HIGH'

    def __init__(self, quiet: Quiet):
        self.quiet = quiet
        self.said = False

    def before_train(self, runner) -> None:
        """Log the summary of a training."""
        self._say(runner, 'training', ('train', 'val'))

    def before_val(self, runner) -> None:
        """Log the summary of a validation, unless it is part of a training."""
        self._say(runner, 'validating', ('val',))

    def before_test(self, runner) -> None:
        """Log the summary of a test."""
        self._say(runner, 'testing', ('test',))

    def _say(self, runner, what: str, parts: tuple[str, ...]) -> None:
        if not self.said:
            self.said = True
            runner.logger.info(summary(runner, what, parts))

    def _before_iter(self, runner, batch_idx, data_batch=None, mode='train') -> None:
        self.quiet.over = True


def build(cfg: Config, verbose: bool = False) -> Runner:
    """Build the runner of ``cfg``, which writes little to the console before its first iteration unless ``verbose``."""
    kind = RUNNERS.get(cfg.get('runner_type', 'Runner'))
    if kind is None:
        # This raises the proper error.
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
    """The types of the model and its backbone, and T; for a Distiller, those of the student and of its teachers."""
    student = getattr(model, 'student', model)
    backbone = getattr(student, 'backbone', None)
    inner = [] if backbone is None else [type(backbone).__name__]
    line = f'{type(student).__name__} ({", ".join([*inner, f"T={get_time_steps(student)}"])})'
    teachers = [type(teacher.model).__name__ for teacher in getattr(model, 'teachers', {}).values()]
    return line + (f', taught by {" and ".join(teachers)}' if teachers else '')


def data_line(loader) -> str:
    """The size of a loader's dataset and of a batch."""
    processes = get_world_size()
    line = f'{len(loader.dataset)} samples in batches of {loader.batch_sampler.batch_size}'
    return line + (f' on each of {processes} processes' if processes > 1 else '')


def device_line(device: torch.device) -> str:
    """The device and the kernels of the neurons on it; if they are not compiled, a warning of the ops says why."""
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type.upper()
    line = extension.serving(device.type)
    return f'{name}; neurons: {line if line.startswith("compiled") else "plain PyTorch"}'
