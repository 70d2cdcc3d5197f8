"""Writes down during a run what its report needs and mmengine does not keep."""

import json
import logging
import os
import platform
import shlex
import sys
import time
import traceback
from numbers import Real
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import collect_results, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper

from mmsnn.building import is_distiller, type_name
from mmsnn.layers import get_time_steps
from mmsnn.registry import HOOKS

from .page import write_or_warn
from .runs import RECORDS

# images of each kind, best and worst
PICTURES = 3
# from so many images of detections on, the log says that counting takes a while
MANY = 1000


def wanted() -> bool:
    """Whether the tools write reports: unless the environment variable ``MMSNN_REPORT`` is 0."""
    return os.environ.get('MMSNN_REPORT') != '0'


def rewrite(folder: str | Path, logger: logging.Logger) -> None:
    """Write the report of a work dir again, for what a tool measured after the run, where reports are wanted."""
    if wanted() and is_main_process():
        write_or_warn(folder, logger)


def add_hook(cfg: Config, tables: bool = True) -> Config:
    """Have a run with ``cfg`` write its report, in place; a hook that the config has already stays. Returns ``cfg``.

    Where the environment variable ``MMSNN_REPORT`` is 0, ``cfg`` stays as it is.

    Args:
        cfg: a whole config; of a distillation, before its teachers are taken out.
        tables: whether figures by class and pictures are made of the last pass over validation or test set.
    """
    hooks = list(cfg.get('custom_hooks') or [])
    if wanted() and not any(type_name(hook) == 'ReportHook' for hook in hooks):
        hook = dict(type='mmsnn.ReportHook', tables=tables)
        model = cfg.get('model') or {}
        if is_distiller(model):
            # the student alone is tested
            first = dict(config=model.get('teacher'), checkpoint=model.get('teacher_checkpoint'))
            teachers = {'teacher': first} if first['config'] is not None else {}
            hook['teachers'] = {**teachers, **(model.get('teachers') or {})}
        cfg.custom_hooks = [*hooks, hook]
    return cfg


@HOOKS.register_module()
class ReportHook(Hook):
    """Writes ``work_dirs/NAME/report.html`` after a training and after a test; the tools add it to every run.

    In the folder of the run's log, ``report/`` then holds ``run.json`` (command, versions, time, memory, what the
    config changes), ``data.json`` (labels of the training set), and of the last validation or the test ``val.json`` or
    ``test.json`` (figures by class) with the best and worst pictures. Whatever goes wrong in here is one warning: it
    ends no training.

    Args:
        tables: whether figures by class and pictures are made of the last pass over validation or test set. That keeps
            the boxes of all images, or the sums of each, in memory. Of detections COCO's evaluation runs once more,
            which for 2,000 images with 100 detections each and 80 classes took 30 s of one core and 350 MiB
            (``tools/benchmarks/report_cost.py``).
        teachers: ``{name: dict(config=..., checkpoint=...)}``, whose predictions stand beside the student's in pictures
            of a test. In a training the Distiller's are taken.
        page: whether ``report.html`` is written after the run; ``mmsnn report WORK_DIR`` writes it at any time.
    """

    # before EMAHook (NORMAL) takes back the weights that the validation was of: the pictures are drawn with them
    priority = 'ABOVE_NORMAL'

    def __init__(self, tables: bool = True, teachers: dict | None = None, page: bool = True):
        self.tables, self.teachers, self.page = tables, teachers or {}, page
        self.items: list[dict] = []
        self.problem: str | None = None
        self.run: dict = {}
        self.start = time.monotonic()
        # whether a training runs, and whether the pass that runs is looked at: alike in all processes
        self.training = self.looking = False

    def before_train(self, runner) -> None:
        self.training = True
        if is_main_process():
            self._try('what the run is', self._begin, runner, True)
            self._try('the statistics of the labels', self._describe, runner)

    def before_test(self, runner) -> None:
        if is_main_process():
            self._try('what the run is', self._begin, runner, False)

    def _begin(self, runner, training: bool) -> None:
        # the tools' imports are quicker without
        from mmsnn.environment import versions
        from mmsnn.shipped import commit

        from .changes import changes, options

        self.start = time.monotonic()
        self.run = dict(
            training=training,
            config=runner.cfg.filename,
            command=shlex.join(['python', *sys.argv]),
            started=time.strftime('%Y-%m-%d %H:%M:%S'),
            versions=versions() | dict(commit=commit() or 'not a clone'),
            machine=f'{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads',
            device=str(next(runner.model.parameters()).device),
            checkpoint=runner.cfg.get('load_from'),
            finished=False,
        )
        self._write(runner, 'run', self.run)
        self.run['changes'] = self._try('what the config changes', changes, runner.cfg)
        self.run['options'] = self._try('what the command line changes', options, runner.cfg)
        self._write(runner, 'run', self.run)

    def _describe(self, runner) -> None:
        from .data import describe

        try:
            said = describe(runner.train_dataloader.dataset)
        # of some data sets nothing can be said, which is no news while training
        except ValueError as error:
            said = dict(problem=str(error))
        self._write(runner, 'data', said)

    def after_train(self, runner) -> None:
        if is_main_process() and self.run:
            stopped = runner.train_loop.stop_training and runner.iter < runner.max_iters
            finished = stopped or runner.iter >= runner.max_iters
            done = dict(finished=finished, stopped_early=stopped, iterations=runner.iter)
            self._try('the end of the run', self._end, runner, done)

    def _end(self, runner, done: dict) -> None:
        from mmsnn.analysis.benchmark import peak_memory

        memory = peak_memory(next(runner.model.parameters()).device)
        self.run |= done | dict(seconds=time.monotonic() - self.start, memory_mib=memory)
        self._write(runner, 'run', self.run)

    def before_val_epoch(self, runner) -> None:
        # of a training the last one
        self._clear(not self.training or runner.iter >= runner.max_iters)

    def before_test_epoch(self, runner) -> None:
        self._clear(True)

    def _clear(self, looking: bool) -> None:
        self.items, self.problem, self.looking = [], None, looking and self.tables

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._collect(outputs, runner.val_evaluator, runner.val_dataloader)

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._collect(outputs, runner.test_evaluator, runner.test_dataloader)

    def _collect(self, outputs, evaluator, loader) -> None:
        if not self.looking or self.problem:
            return
        from .evaluation import counted, digest

        try:
            classes = (loader.dataset.metainfo or {}).get('classes')
            if not classes:
                raise ValueError('the data set names no classes')
            ignored = next((m.ignore_index for m in evaluator.metrics if hasattr(m, 'ignore_index')), 255)
            areas = counted(evaluator.metrics, len(outputs))
            self.items += [digest(one, len(classes), ignored, known) for one, known in zip(outputs, areas)]
        # no reason to end a run
        except Exception as error:
            self.problem = f'{type(error).__name__}: {error}'

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        self._summarise(runner, 'val', runner.val_dataloader, metrics)

    def after_test_epoch(self, runner, metrics: dict | None = None) -> None:
        self._summarise(runner, 'test', runner.test_dataloader, metrics)

    def _summarise(self, runner, part: str, loader, metrics: dict | None) -> None:
        if not self.looking:
            return
        self._try(f'the figures of the {part} set', self._tell, runner, part, loader, metrics)
        self.items = []

    def _tell(self, runner, part: str, loader, metrics: dict | None) -> None:
        # every process takes part, also one in which something went wrong; by the process group, 'gpu' or not: a full
        # disk would stop one of them, and have the others wait
        items = collect_results(self.items, len(loader.dataset), device='gpu')
        if items is None:
            return
        from .evaluation import extremes, summarise

        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        dataset = loader.dataset
        said = dict(
            metrics={k: float(v) for k, v in (metrics or {}).items() if isinstance(v, Real)},
            T=get_time_steps(model),
            checkpoint=None if self.training else runner.cfg.get('load_from'),
            images=len(items),
        )
        shuffled = getattr(loader.sampler, 'shuffle', False)
        if self.problem or shuffled or len(items) != len(dataset):
            why = self.problem or 'the images of the data loader are not those of the data set in their order'
            self._write(runner, part, said | dict(problem=why))
            return
        if len(items) > MANY and items[0]['kind'] == 'detection':
            what = f'the report counts detections by class in {len(items):,} images, which takes a while'
            print_log(f'{what}; mmsnn.ReportHook(tables=False) does not', logger='current')
        try:
            tables, scores = summarise(items, dataset, [str(name) for name in dataset.metainfo['classes']])
        except (KeyError, ValueError, AttributeError) as error:
            # a data set of another kind
            self._write(runner, part, said | dict(problem=f'{type(error).__name__}: {error}'))
            return
        said |= tables
        self._write(runner, part, said)
        if isinstance(model, BaseTTAModel) or 'FullySharded' in type(runner.model).__name__:
            # one process alone may not run what is spread over several
            said['no_pictures'] = 'none are drawn with test-time augmentation or FSDP'
        else:
            best, worst = extremes(scores, PICTURES)
            chosen = dict(best=best, worst=worst)
            said['judged'] = len(scores)
            said['scores'] = {which: [scores[i] for i in indices] for which, indices in chosen.items()}
            said['pictures'] = self._try(
                'the pictures', self._draw, runner, model, dataset, chosen, tables['kind'], said
            )
        self._write(runner, part, said)

    def _draw(self, runner, model, dataset, chosen: dict, kind: str, said: dict) -> list[dict]:
        from mmsnn.distill.teacher import Teacher, untouched_rng

        from .pictures import draw

        folder = self._folder(runner)
        # teachers come and go here without a trace
        with untouched_rng():
            teachers = getattr(model, 'teachers', {})
            try:
                if not hasattr(model, 'teachers'):
                    teachers = {name: Teacher(**cfg, key=name) for name, cfg in self.teachers.items()}
                for teacher in teachers.values():
                    teacher.load()
                    teacher.model.to(next(model.parameters()).device)
            except (ValueError, OSError) as error:
                said['no_teacher'] = str(error).splitlines()[0]
                teachers = {}
            student = getattr(model, 'student', model)
            training = student.training
            student.eval()
            try:
                return draw(student, dataset, chosen, kind, folder, teachers)
            finally:
                student.train(training)

    def after_run(self, runner) -> None:
        if self.page and is_main_process() and self.run:
            write_or_warn(runner.work_dir, runner.logger)

    @staticmethod
    def _folder(runner) -> Path:
        folder = Path(runner.log_dir) / RECORDS
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _write(self, runner, name: str, content: dict) -> None:
        (self._folder(runner) / f'{name}.json').write_text(json.dumps(content, indent=1, default=float))

    @staticmethod
    def _try(what: str, do, *args):
        """What ``do`` returns; None, and a warning, where it fails."""
        try:
            return do(*args)
        # a report is no reason to end a training
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            print_log(
                f'report.html will lack {what}: {type(error).__name__}: {error} '
                f'({Path(where.filename).name}:{where.lineno})',
                logger='current',
                level=logging.WARNING,
            )
        return None
