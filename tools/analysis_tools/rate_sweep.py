"""Train a student for several target firing rates, and draw accuracy against rate, energy and milliseconds by T.

For each target, tools/train.py and tools/test.py run in folders of --out. The same command continues an interrupted
sweep, and draws a finished one again.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmsnn.building import is_distiller, type_name
from mmsnn.engine.cli import read_config
from mmsnn.engine.options import add_cfg_options, positive
from mmsnn.refusals import run_main
from mmsnn.shipped import home

TOOLS = home() / 'tools'
METRICS = 'accuracy/top1', 'coco/bbox_mAP', 'pascal_voc/mAP', 'mIoU'
# the keys of a row that are drawn, with the labels of their axes
AXES = dict(
    firing_rate='spikes per neuron and step',
    energy_with_memory_uj='energy per image with memory, fp32 (µJ)',
    ms_per_image='ms per image, this machine',
)


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of a student, with or without distillation')
    parser.add_argument(
        '--rates', nargs='+', type=float, default=[0.1, 0.05, 0.02], metavar='R', help='target firing rates'
    )
    parser.add_argument('--synops', nargs='+', type=float, metavar='N', help='target synaptic operations, instead')
    parser.add_argument('--T', nargs='+', type=positive, default=[1, 2, 4], metavar='N', help='time steps in tests')
    parser.add_argument('--weight', type=float, help="weight of the FiringRate term; default: the config's, or 1")
    parser.add_argument(
        '--out', required=True, type=Path, metavar='FOLDER', help='folder of trainings, tests, sweep.json and sweep.png'
    )
    parser.add_argument('--metric', help=f'metric to draw; default: the first that exists of {", ".join(METRICS)}')
    parser.add_argument('--seed', type=int, default=0)
    add_cfg_options(parser)
    parser.set_defaults(work_dir=None, launcher='none')
    args = parser.parse_args(argv)
    if any(t <= 0 for t in args.synops or args.rates):
        parser.error('targets must be positive')
    return args


def with_target(cfg: Config, key: str, target: float | None, weight: float | None) -> Config:
    """``cfg`` with a `FiringRate` term of that target, or without one for None.

    A plain student is wrapped in a Distiller without a teacher. A `FiringRate` term of the config keeps its other
    settings. Gradients are clipped at a norm of 1 unless the config clips them, because they explode in batch norms
    after layers that fall silent.
    """
    cfg = Config(cfg.to_dict())
    cfg.optim_wrapper.setdefault('clip_grad', ConfigDict(max_norm=1))
    if not is_distiller(cfg.model):
        cfg.model = ConfigDict(type='mmsnn.Distiller', student=cfg.model, losses=ConfigDict())
    losses = cfg.model.get('losses') or ConfigDict()
    name = next((n for n, term in losses.items() if term and type_name(term) == 'FiringRate'), 'loss_rate')
    term = {**(losses.pop(name, None) or dict(type='mmsnn.FiringRate'))}
    for old in ('rate', 'synops'):
        term.pop(old, None)
    if target is not None:
        losses[name] = {**term, key: target} | ({} if weight is None else dict(weight=weight))
    cfg.model.losses = losses
    return cfg


def run(folder: Path, tool: str, *arguments) -> None:
    """Run a tool in its own process with its output in a log in ``folder``; RuntimeError that names the log."""
    log = folder / f'{tool}.log'
    with open(log, 'ab') as out:
        command = [sys.executable, TOOLS / f'{tool}.py', *arguments]
        done = subprocess.run([str(c) for c in command], stdout=out, stderr=out, env=os.environ.copy())
    if done.returncode:
        raise RuntimeError(f'{tool}.py failed for {folder.name}, see {log}; the same command continues from there')


def complete(folder: Path, cfg: Config, args: argparse.Namespace) -> list[dict]:
    """The rows of one target, after training and testing if they have not been done.

    Raises:
        RuntimeError: a tool failed; the message names its log.
        ValueError: ``folder`` belongs to another config.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, trained, last = folder / 'config.py', folder / 'trained', folder / 'last_checkpoint'
    if file.exists() and Config.fromfile(file).to_dict() != cfg.to_dict():
        raise ValueError(f'{file} has another config or other options: choose another --out, or remove the folder')
    cfg.dump(file)
    if not trained.exists():
        print(f'{folder.name}: training', flush=True)
        run(folder, 'train', file, '--work-dir', folder, '--seed', args.seed, *['--resume'] * last.exists())
        trained.touch()
    results = folder / 'test' / 'time_steps.json'
    # test.py writes time_steps.json only for several T, so a single one gets another beside it
    steps = sorted({*args.T, *([args.T[0] + 1] if len(set(args.T)) == 1 else [])})
    if not results.exists() or not set(args.T) <= {row['T'] for row in json.loads(results.read_text())['rows']}:
        print(f'{folder.name}: testing', flush=True)
        run(folder, 'test', file, last.read_text().strip(), '--work-dir', folder / 'test', '--T', *steps)
    return [row for row in json.loads(results.read_text())['rows'] if row['T'] in args.T]


def draw(rows: list[dict], metric: str, path: Path) -> None:
    """Draw a panel for each axis with a line for each T and a mark for each target."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(AXES), figsize=(5 * len(AXES), 4.2), layout='constrained', sharey=True)
    for panel, (key, label) in zip(panels, AXES.items()):
        for T, mark in zip(sorted({row['T'] for row in rows}), 'osD^v<>P*X'):
            points = sorted((row[key], row[metric], row['target']) for row in rows if row['T'] == T)
            panel.plot([x for x, *_ in points], [y for _, y, _ in points], marker=mark, label=f'T={T}')
            for x, y, target in points:
                panel.annotate(target, (x, y), fontsize=7, xytext=(3, 4), textcoords='offset points')
        panel.set(xlabel=label, xscale='log')
        panel.grid(alpha=0.3, which='both')
    panels[0].set_ylabel(metric)
    panels[0].legend()
    figure.suptitle('One student trained for several target firing rates (labels of points)')
    figure.savefig(path, dpi=110)
    plt.close(figure)


def table(rows: list[dict], metric: str) -> str:
    """The rows in Markdown."""
    keys = ['target', 'T', metric, *AXES]
    lines = ['| ' + ' | '.join(keys) + ' |', '|' + '---|' * len(keys)]
    for row in rows:
        lines.append(
            '| ' + ' | '.join(f'{v:.4g}' if isinstance(v, float) else str(v) for v in map(row.get, keys)) + ' |'
        )
    return '\n'.join(lines)


def main(argv=None) -> list[dict]:
    """Run the command line ``argv`` (default: ``sys.argv``); returns the rows."""
    args = parse_args(argv)
    cfg = read_config(args)
    cfg.pop('work_dir')
    key, targets = ('synops', args.synops) if args.synops else ('rate', args.rates)
    rows = []
    for target in [None, *targets]:
        name = 'none' if target is None else f'{target:g}'
        folder = args.out / (name if target is None else f'{key}_{name}')
        rows += [dict(target=name, **row) for row in complete(folder, with_target(cfg, key, target, args.weight), args)]
    metric = args.metric or next((m for m in METRICS if m in rows[0]), None)
    if metric not in rows[0]:
        names = ', '.join(k for k in rows[0] if '/' in k)
        raise ValueError(f'--metric {metric} is not among the metrics of the test: {names or "none"}')
    about = dict(config=args.config, kind=key, weight=args.weight, metric=metric, seed=args.seed, rows=rows)
    (args.out / 'sweep.json').write_text(json.dumps(about, indent=1))
    draw(rows, metric, args.out / 'sweep.png')
    print(table(rows, metric))
    return rows


if __name__ == '__main__':
    run_main(main)
