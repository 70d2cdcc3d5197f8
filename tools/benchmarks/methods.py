"""Compare distillation methods on small data sets: teacher, undistilled student and every method, with several seeds.

All students of a task train for the same number of epochs. tools/train.py runs every training, so the same command
continues an interrupted comparison, and makes table and plot again when all is trained.
"""

import argparse
import json
import shlex
import statistics
import sys
import time
from pathlib import Path

import torch
from trainings import METHODS, TASKS, Run, plan, train_all

import mmsnn
from mmsnn.refusals import run_main
from mmsnn.shipped import commit


def summary(task: str, runs: dict[str, list[Run]]) -> dict:
    """Results of a task: final metrics and curves, and for methods the gain over the undistilled student.

    For methods there are also the share of the gap to the teacher that they close, and the first validated epoch that
    reaches the final metric of the undistilled student.
    """
    about = TASKS[task]
    curves = {name: [run.curve(about.metric) for run in group if run.finished()] for name, group in runs.items()}
    final = {name: [round(c[max(c)] * about.factor, 2) for c in group] for name, group in curves.items()}
    mean = {name: statistics.mean(values) for name, values in final.items() if values}
    out = dict(task=task, metric=about.metric, final=final, curves=curves)
    out['epochs'] = {name: max(group[0]) for name, group in curves.items() if group}
    base = mean.get('undistilled')
    if base is not None and 'teacher' in mean:
        students = [name for name in mean if name not in ('teacher', 'undistilled')]
        out['gain'] = {n: round(mean[n] - base, 2) for n in students}
        out['gap_closed'] = {n: round((mean[n] - base) / (mean['teacher'] - base), 2) for n in students}
        out['first_epoch_at_undistilled'] = {
            n: [next((e for e, v in c.items() if v * about.factor >= base), None) for c in curves[n]] for n in students
        }
    return out


def table(results: list[dict]) -> str:
    """The results as a Markdown table."""
    lines = [
        '| task | run | epochs | result (%) | mean +- spread | gain | gap closed | epochs to undistilled |',
        '|' + '---|' * 8,
    ]
    for r in results:
        for name, values in r['final'].items():
            if not values:
                continue
            closed = r.get('gap_closed', {}).get(name)
            first = r.get('first_epoch_at_undistilled', {}).get(name)
            cells = [r['task'], name, r['epochs'][name], ', '.join(f'{v:.1f}' for v in values)]
            several = len(values) > 1
            cells += [f'{statistics.mean(values):.1f} +- {statistics.stdev(values):.1f}' if several else '']
            cells += ['' if closed is None else f'{r["gain"][name]:+.1f}', '' if closed is None else f'{closed:.0%}']
            cells += ['' if first is None else ', '.join('never' if e is None else str(e) for e in first)]
            lines.append('| ' + ' | '.join(map(str, cells)) + ' |')
    return '\n'.join(lines)


def overview(results: list[dict]) -> str:
    """A table with a row per method and a column per task: mean, spread over seeds, gain over undistilled."""
    head = [TASKS[r['task']].unit for r in results]
    lines = ['| | ' + ' | '.join(head) + ' |', '|' + '---|' * (1 + len(results))]
    for name in ['teacher', *METHODS]:
        cells = []
        for r in results:
            values = r['final'].get(name)
            if not values:
                cells.append('')
                continue
            spread = f' +- {statistics.stdev(values):.1f}' if len(values) > 1 else ''
            gain = r.get('gain', {}).get(name)
            cells.append(f'{statistics.mean(values):.1f}{spread}' + ('' if gain is None else f' ({gain:+.1f})'))
        if any(cells):
            lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def draw(result: dict, path: Path) -> None:
    """Draw validation curves (means over seeds) and final results of one task, with teacher and undistilled student."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    about = TASKS[result['task']]
    names = [name for name, values in result['final'].items() if values and name != 'teacher']
    names.sort(key=lambda name: statistics.mean(result['final'][name]))
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 0.9 + 0.33 * max(len(names), 8)), layout='constrained')
    colours = {name: plt.get_cmap('tab20')(i) for i, name in enumerate(n for n in result['final'] if n != 'teacher')}
    marks = {name: 'osD^v<>PX*hp'[i % 12] for i, name in enumerate(colours)}
    for name in reversed(names):
        curves = result['curves'][name]
        by_epoch = [{int(e): v for e, v in c.items()} for c in curves]
        # a training that was interrupted during a validation lacks that epoch
        epochs = sorted(set().union(*by_epoch))
        means = [statistics.mean(c[e] for c in by_epoch if e in c) * about.factor for e in epochs]
        width = 2.5 if name == 'undistilled' else 1.2
        left.plot(epochs, means, color=colours[name], marker=marks[name], markersize=5, lw=width, label=name)
    for row, name in enumerate(names):
        values = result['final'][name]
        right.scatter(values, [row] * len(values), color=colours[name], marker=marks[name], s=28)
        right.plot([statistics.mean(values)] * 2, [row - 0.3, row + 0.3], color='black', lw=1.5)
    right.set_yticks(range(len(names)), names)
    for name, style in (('teacher', '--'), ('undistilled', ':')):
        for value in result['final'].get(name, [])[:1]:
            value = statistics.mean(result['final'][name])
            right.axvline(value, color='grey', ls=style)
            right.annotate(f' {name}', (value, len(names) - 0.6), color='grey', fontsize=8)
            if name == 'teacher':
                epochs = result['epochs']['teacher']
                label = f'teacher ({epochs} epochs)' if epochs else 'teacher (published)'
                left.axhline(value, color='grey', ls=style, label=label)
    left.set(xlabel='epoch', ylabel=about.unit, title='validation, mean over seeds')
    right.set(xlabel=about.unit, title='last epoch: a mark per seed, bars are means', ylim=(-0.7, len(names) + 0.2))
    left.xaxis.get_major_locator().set_params(integer=True)
    left.legend(fontsize=7, loc='upper left', bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv=None) -> None:
    """Run the command line ``argv`` (default: ``sys.argv``)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('tasks', nargs='*', help=f'any of {", ".join(TASKS)}; default: cifar10, bccd and camvid')
    parser.add_argument('--seeds', type=int, default=3, help='number of seeds (default: 3)')
    parser.add_argument('--methods', nargs='+', choices=list(METHODS), default=list(METHODS), metavar='METHOD')
    parser.add_argument('--epochs', type=int, help="epochs of the students; default: their configs'")
    parser.add_argument('--amp', action='store_true', help='students train in mixed precision')
    parser.add_argument('--jobs', type=int, default=2, help='number of trainings that run at once (default: 2)')
    parser.add_argument('--threads', type=int, help='threads of a training; default: its share of the cores')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/methods'))
    parser.add_argument('--no-train', action='store_true', help='only make table and plot of finished trainings')
    parser.add_argument('--out', type=Path, metavar='FILE.json', help='also write results, and plots FILE_TASK.png')
    args = parser.parse_args(argv)
    if unknown := set(args.tasks) - set(TASKS):
        parser.error(f'unknown tasks {", ".join(sorted(unknown))}; the tasks are {", ".join(TASKS)}')
    tasks = args.tasks or ['cifar10', 'bccd', 'camvid']
    work = args.work_dir.resolve()
    plans = {task: plan(task, args.seeds, args.methods, work, args.epochs, args.amp) for task in tasks}
    if not args.no_train:
        train_all(plans, args.jobs, args.threads)
    results = [summary(task, runs) for task, runs in plans.items()]
    print(table(results), overview(results), sep='\n\n')
    if args.out:
        head = dict(
            command='python tools/benchmarks/methods.py ' + shlex.join(argv or sys.argv[1:]),
            commit=commit(),
            date=time.strftime('%Y-%m-%d'),
            versions=dict(mmsnn=mmsnn.__version__, torch=torch.__version__),
        )
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(dict(**head, results=results), indent=1) + '\n')
        for result in results:
            draw(result, args.out.with_name(f'{args.out.stem}_{result["task"]}.png'))


if __name__ == '__main__':
    run_main(main)
