"""Train teacher, undistilled and SAKD students on the small sets, and make the table of configs/sakd/README.md."""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import mmsnn

ROOT = Path(__file__).resolve().parents[2]
# teacher, student, key of the metric, factor that brings it to per cent
TASKS = {
    'bccd': ('retinanet_r18_bccd', 'retinanet_sew18_bccd', 'coco/bbox_mAP', 100),
    'digits': ('retinanet_r18_digits', 'retinanet_sew18_digits', 'coco/bbox_mAP', 100),
    'camvid': ('fcn_r18_camvid', 'fcn_sew18_camvid', 'mIoU', 1),
    'cifar10': ('r18_cifar10_small', 'spiking_r18_cifar10_small', 'accuracy/top1', 1),
}
LEVELS = {
    'undistilled': None,
    'level 1': ['model.losses=None'],
    'level 2': ['model.transfer=False'],
    'both': [],
}


@dataclass
class Run:
    """One training: its config, folder and options."""

    config: Path
    folder: Path
    seed: int
    options: list[str]

    def curve(self, metric: str) -> dict[int, float]:
        """Validation metric by epoch, over all logs of a training that was resumed."""
        logs = sorted(self.folder.glob('*/vis_data/scalars.json'))
        lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
        return {line['step']: line[metric] for line in lines if metric in line}

    def finished(self) -> bool:
        """Whether the training wrote its last checkpoint."""
        return (self.folder / 'finished').exists()

    def train(self, threads: int) -> None:
        """Train, or go on where an earlier run stopped; RuntimeError with the log's place if that fails."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, ROOT / 'tools/train.py', self.config, '--work-dir', self.folder, '--seed', self.seed]
        command += ['--resume'] if (self.folder / 'last_checkpoint').exists() else []
        command += ['--cfg-options', *self.options] if self.options else []
        with open(self.folder / 'output.log', 'ab') as log:
            env = {**os.environ, 'OMP_NUM_THREADS': str(threads)}
            code = subprocess.run([str(c) for c in command], stdout=log, stderr=log, env=env, cwd=ROOT).returncode
        if code:
            raise RuntimeError(f'training failed, see {log.name}: {" ".join(map(str, command))}')
        (self.folder / 'finished').touch()


def plan(task: str, seeds: int, levels: list[str], work: Path) -> dict[str, list[Run]]:
    """The runs of one task: the teacher (one seed), and the students."""
    teacher, student, _, _ = TASKS[task]
    runs = {'teacher': [Run(ROOT / f'configs/ann/{teacher}.py', work / task / 'teacher', 0, [])]}
    checkpoint = f'model.teacher_checkpoint={work / task / "teacher" / "teacher.pth"}'
    for level in levels:
        distilled = LEVELS[level] is not None
        config = ROOT / f'configs/{"sakd" if distilled else "spiking"}/{student}.py'
        options = [checkpoint, *LEVELS[level]] if distilled else []
        folder = work / task / level.replace(' ', '')
        runs[level] = [Run(config, folder / f'seed{seed}', seed, options) for seed in range(seeds)]
    return runs


def summary(task: str, runs: dict[str, list[Run]]) -> dict:
    """Final metric of every run, the gap closed, and the first validated epoch at the undistilled student's level."""
    *_, metric, factor = TASKS[task]
    curves = {name: [run.curve(metric) for run in group if run.finished()] for name, group in runs.items()}
    final = {name: [round(c[max(c)] * factor, 2) for c in group] for name, group in curves.items()}
    mean = {name: statistics.mean(values) for name, values in final.items() if values}
    out = dict(task=task, metric=metric, final=final)
    out['curves'] = curves
    out['epochs'] = {name: max(group[0]) for name, group in curves.items() if group}
    base = mean.get('undistilled')
    if base is not None and 'teacher' in mean:
        gap = mean['teacher'] - base
        out['gap_closed'] = {
            n: round((m - base) / gap, 2) for n, m in mean.items() if n not in ('teacher', 'undistilled')
        }
        out['first_epoch_at_undistilled'] = {
            name: [next((e for e, v in c.items() if v * factor >= base), None) for c in curves[name]]
            for name in out['gap_closed']
        }
    return out


def table(results: list[dict]) -> str:
    """The results as a Markdown table."""
    lines = [
        '| task | run | epochs | result (%) | mean +- spread | gap closed | epochs to undistilled |',
        '|' + '---|' * 7,
    ]
    for r in results:
        for name, values in r['final'].items():
            if not values:
                continue
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            closed = r.get('gap_closed', {}).get(name)
            first = r.get('first_epoch_at_undistilled', {}).get(name)
            cells = [r['task'], name, r['epochs'][name], ', '.join(f'{v:.1f}' for v in values)]
            cells += [f'{statistics.mean(values):.1f} +- {spread:.1f}' if len(values) > 1 else '']
            cells += ['' if closed is None else f'{closed:.0%}']
            cells += ['' if first is None else ', '.join('never' if e is None else str(e) for e in first)]
            lines.append('| ' + ' | '.join(map(str, cells)) + ' |')
    return '\n'.join(lines)


def main(argv=None) -> None:
    """Run the command line ``argv`` (default: ``sys.argv``)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('tasks', nargs='*', help=f'of {", ".join(TASKS)}; default: all')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--levels', nargs='+', choices=list(LEVELS), default=list(LEVELS))
    parser.add_argument('--jobs', type=int, default=2, help='trainings at a time, each with its share of the cores')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/small_data')
    parser.add_argument('--out', type=Path, help='also write the results as JSON')
    args = parser.parse_args(argv)
    if unknown := set(args.tasks) - set(TASKS):
        parser.error(f'unknown tasks {", ".join(unknown)}; there are {", ".join(TASKS)}')
    plans = {task: plan(task, args.seeds, args.levels, args.work_dir.resolve()) for task in args.tasks or TASKS}
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    todo = [run for runs in plans.values() for group in runs.values() for run in group if not run.finished()]
    columns = [TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns) as bar, ThreadPoolExecutor(args.jobs) as pool:
        item = bar.add_task('trainings', total=len(todo))

        def work(run: Run) -> None:
            run.train(threads)
            if run.folder.name == 'teacher':
                last = Path((run.folder / 'last_checkpoint').read_text().strip())
                (run.folder / 'teacher.pth').unlink(missing_ok=True)
                (run.folder / 'teacher.pth').symlink_to(last.name)
            bar.advance(item)

        # students wait for their teacher
        for wave in ([r for r in todo if r.folder.name == 'teacher'], [r for r in todo if r.folder.name != 'teacher']):
            list(pool.map(work, wave))
    results = [summary(task, runs) for task, runs in plans.items()]
    print(table(results))
    if args.out:
        commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, cwd=ROOT)
        head = dict(
            command='python tools/benchmarks/small_data.py ' + shlex.join(argv or sys.argv[1:]),
            commit=commit.stdout.strip(),
            date=time.strftime('%Y-%m-%d'),
            versions=dict(mmsnn=mmsnn.__version__, torch=torch.__version__),
        )
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(dict(**head, results=results), indent=1) + '\n')


if __name__ == '__main__':
    main()
