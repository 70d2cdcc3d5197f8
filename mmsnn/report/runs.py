"""What a training or a test has left in its work dir, read back."""

import json
import re
import shlex
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mmengine.config import Config

from mmsnn.building import is_distiller, read
from mmsnn.distill.schedules import Progress, Schedule
from mmsnn.distill.terms import logged_as
from mmsnn.engine.hooks.finite_hook import RECORD

# the folder beside a log in which `ReportHook` writes
RECORDS = 'report'
# columns of a log that are no results
CLOCKS = ('data_time', 'time', 'memory', 'step', 'epoch', 'iter')
# what tools/test.py writes into the work dir
MEASURED = ('benchmark', 'time_steps', 'early_exit')


@dataclass
class Run:
    """One work dir.

    Attributes:
        folder: the work dir.
        cfg: the config of its last run; None where it cannot be read.
        train: rows of the training's log by iteration, as mmengine wrote them.
        val: rows of its validations by ``step``, the epoch or iteration.
        rates: rows of ``firing_rates.json`` by iteration.
        test: the metrics of the last test.
        records: what `ReportHook` wrote, by the names of its files: ``run``, ``data``, ``val``, ``test``.
        measured: ``benchmark.json``, ``time_steps.json`` and ``early_exit.json`` by their names.
        pictures: the folders of the pictures, by the same names as their records.
        problems: files that could not be read, with the reason.
    """

    folder: Path
    cfg: Config | None = None
    train: dict[int, dict] = field(default_factory=dict)
    val: dict[int, dict] = field(default_factory=dict)
    rates: dict[int, dict] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    records: dict[str, dict] = field(default_factory=dict)
    measured: dict[str, dict] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name

    @property
    def config(self) -> str:
        """What the command line calls the config: its file, where that is still there, else the copy in the folder."""
        named = self.records.get('run', {}).get('config') or ''
        if named and Path(named).is_file():
            return named
        return str(next(iter(sorted(self.folder.glob('*.py'))), 'CONFIG'))

    def command(self, tool: str, *more: str | Path) -> str:
        """What to type in a shell for a tool of mmsnn that reads this run's config, and its checkpoint if it does."""
        read_ = [self.config] + [self.checkpoint or 'CHECKPOINT'] * (tool in ('test', 'look', 'deploy'))
        return shlex.join(map(str, ['mmsnn', tool, *read_, *more]))

    @property
    def checkpoint(self) -> Path | None:
        """The best checkpoint, else the last one; None where there is none."""
        best = sorted(self.folder.glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
        others = sorted(self.folder.glob('*.pth'), key=lambda path: path.stat().st_mtime)
        # what a training leaves that meets NaN holds no weights
        others = [path for path in others if path.name != RECORD]
        return (best or others or [None])[-1]

    @cached_property
    def losses(self) -> list[str]:
        """Names of the loss terms, the total first."""
        names = dict.fromkeys(key for row in self.train.values() for key in row)
        found = [key for key in names if 'loss' in key and key != 'loss']
        return ['loss'] * ('loss' in names) + found

    @cached_property
    def metrics(self) -> list[str]:
        """Names of the student's metrics in validation."""
        names = dict.fromkeys(key for row in self.val.values() for key in row if key not in CLOCKS)
        return [name for name in names if not self._is_teachers(name)]

    @property
    def saved_best(self) -> list[str]:
        """Names of the metrics by which the best checkpoint is kept; empty where none is, or ``auto`` chooses one."""
        hooks = (self.cfg.get('default_hooks') if self.cfg is not None else None) or {}
        best = (hooks.get('checkpoint') or {}).get('save_best') or []
        return [best] if isinstance(best, str) else list(best)

    @cached_property
    def teacher_metrics(self) -> dict[str, str]:
        """Names of the teachers' metrics in validation, with the student's metric that each compares with."""
        names = dict.fromkeys(key for row in self.val.values() for key in row if self._is_teachers(key))
        return {name: name.partition('/')[2] for name in names}

    def _is_teachers(self, name: str) -> bool:
        # the DistillHook's names: teacher/accuracy/top1 beside accuracy/top1
        _, _, rest = name.partition('/')
        return any(rest in row for row in self.val.values())

    @property
    def by_epoch(self) -> bool:
        """Whether validations are counted in epochs."""
        last = self.train[max(self.train)] if self.train else {}
        return bool(self.val) and 'epoch' in last and max(self.val) <= last['epoch']

    @cached_property
    def schedules(self) -> dict[str, Schedule]:
        """The weights of the terms of a distillation by the names of the losses; a constant 1 is left out."""
        model = self.cfg.get('model') if self.cfg is not None else None
        if not model or not is_distiller(model):
            return {}
        found = {}
        for name, term in (model.get('losses') or {}).items():
            if term is not None:
                weight = term.get('weight', 1.0)
                found[logged_as(name)] = Schedule.of(weight.to_dict() if hasattr(weight, 'to_dict') else weight)
        return found

    def weights(self, loss: str) -> dict[int, float]:
        """The weight of a loss term at each logged iteration; empty where it is constant or unknown."""
        schedule = self.schedules.get(loss)
        if schedule is None or not schedule.varies or (schedule.by == 'iter_in_epoch'):
            return {}
        # rows are written after the iteration and count from 1
        return {
            step: schedule(Progress(row.get('epoch', 1) - 1, row.get('iter', step) - 1))
            for step, row in self.train.items()
        }

    @property
    def status(self) -> str:
        """How far the training went."""
        if not self.train:
            return 'no training' if self.has_test else 'no log of a training'
        said, step = self.records.get('run', {}), max(self.train)
        loop = (self.cfg.get('train_cfg') or {}) if self.cfg is not None else {}
        epoch = self.train[step].get('epoch')
        total = loop.get('max_epochs') or loop.get('max_iters')
        unit, now = ('epoch', epoch) if loop.get('max_epochs') else ('iteration', step)
        if said.get('stopped_early'):
            return f'stopped early in {unit} {now} of {total}, after {said["iterations"]} iterations'
        if said.get('finished'):
            return f'finished: {total} {unit}s, {said.get("iterations", step)} iterations'
        if total is None:
            return f'{step} iterations in the log'
        if said or now is None or now < total:
            return f'not finished: the log ends at iteration {step}, in {unit} {now} of {total}'
        return f'{unit} {now} of {total}, {step} iterations'

    @property
    def unfinished(self) -> bool:
        """Whether a training broke off."""
        return self.status.startswith('not finished')

    @property
    def has_test(self) -> bool:
        """Whether a test ran."""
        return bool(self.test or self.measured)


def read_run(folder: str | Path) -> Run:
    """Read a work dir.

    Raises:
        FileNotFoundError: there is no such folder, or nothing in it that a run writes; the message names runs below it.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder}: there is no such folder; give the work dir of a training or a test')
    run = Run(folder)
    sessions = sorted(path for path in folder.iterdir() if path.is_dir() and re.fullmatch(r'\d{8}_\d{6}', path.name))
    for session in sessions:
        _read_session(run, session)
    recorded = run.records.get('test', {}).get('metrics')
    if recorded:
        # the log of a sweep holds metrics of one of its steps, and does not say of which
        run.test = recorded
    for name in MEASURED:
        content = _load(run, folder / f'{name}.json')
        if isinstance(content, dict):
            run.measured[name] = content
    if not (run.train or run.val or run.rates or run.test or run.records or run.measured):
        below = sorted({path.parents[2] for path in folder.glob('**/vis_data/scalars.json')} - {folder})
        if sessions:
            said = 'its runs ended before the first line of a log; the *.log files in it tell why'
        elif below:
            said = f'the runs are below it: {", ".join(map(str, below[:5]))}{" ..." if len(below) > 5 else ""}'
        else:
            said = 'nothing that a training or a test writes is in it; give the folder that --work-dir named'
        raise FileNotFoundError(f'{folder}: {said}')
    return run


def _read_session(run: Run, session: Path) -> None:
    """Add one folder of logs; what is later counts where an iteration was run twice."""
    for row in _rows(run, session / 'vis_data' / 'scalars.json'):
        if 'lr' in row or 'loss' in row:
            run.train[row['step']] = row
        elif set(row) - set(CLOCKS):
            run.val[row['step']] = row
    for row in _rows(run, session / 'vis_data' / 'firing_rates.json'):
        if isinstance(row.get('layers'), dict):
            run.rates[row['step']] = row
    tested = _load(run, session / f'{session.name}.json')
    if isinstance(tested, dict):
        run.test = {k: v for k, v in tested.items() if isinstance(v, (int, float)) and k not in CLOCKS}
    path = session / 'vis_data' / 'config.py'
    trained = (session / 'vis_data' / 'scalars.json').is_file()
    # a test's config is its student's alone
    if path.is_file() and (trained or run.cfg is None):
        try:
            run.cfg = read(str(path))
        # whatever a config does, the rest of the report is there
        except Exception as error:
            run.problems.append(f'{path}: {type(error).__name__}: {error}')
    for path in sorted((session / RECORDS).glob('*.json')):
        content = _load(run, path)
        if not isinstance(content, dict) or (
            path.stem == 'run' and 'run' in run.records and not content.get('training')
        ):
            continue
        run.records[path.stem] = content
        run.pictures[path.stem] = path.parent


def _rows(run: Run, path: Path) -> list[dict]:
    """The lines of a log that name a step; the last may be cut."""
    if not path.is_file():
        return []
    found, broken = [], 0
    for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and isinstance(row.get('step'), int):
            found.append(row)
        else:
            broken += 1
    if broken:
        run.problems.append(f'{path}: lines left out that are not whole: {broken}')
    return found


def _load(run: Run, path: Path):
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding='utf-8', errors='replace'))
    except ValueError as error:
        run.problems.append(f'{path} is no JSON: {error}')
    return None
