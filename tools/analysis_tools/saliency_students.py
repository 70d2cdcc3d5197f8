"""Compare how well several students agree with their teacher on what matters in an image, over many images."""

import argparse
import json
import math
import shlex
import statistics
import sys
import time
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import saliency
import torch
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from rich.progress import track

import mmsnn
from mmsnn.analysis.saliency import KINDS, compare
from mmsnn.engine.options import positive
from mmsnn.refusals import run_main
from mmsnn.shipped import commit

# this backend needs no display
matplotlib.use('Agg')

FIGURES = dict(cosine='cosine', spearman="Spearman's rank correlation", iou='IoU of the top pixels')


def student(text: str) -> tuple[str, list[str]]:
    """A student of the command line: its name, and its checkpoints, one a seed."""
    name, _, files = text.partition('=')
    files = [file for file in files.split(',') if file]
    if not name or not files:
        raise argparse.ArgumentTypeError(f'{text!r} is not NAME=CHECKPOINT[,CHECKPOINT ...]')
    return name, files


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of all students')
    parser.add_argument('--teacher', metavar='CONFIG', help='config of the teacher, a file or mmsnn::PATH')
    parser.add_argument('--teacher-checkpoint', metavar='FILE', help='weights of the teacher')
    parser.add_argument(
        '--students', nargs='+', type=student, required=True, metavar='NAME=FILE[,FILE]', help='a checkpoint a seed'
    )
    parser.add_argument('--first', type=positive, default=500, metavar='N', help='number of test images (default: 500)')
    parser.add_argument('--top', type=float, default=10, metavar='Q', help='percentage of pixels that are top pixels')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--out', type=Path, metavar='FILE.json', help='also write results, and a plot FILE.png')
    parser.set_defaults(cfg_options=None, work_dir=None, launcher='none')
    args = parser.parse_args(argv)
    names = [name for name, _ in args.students]
    if len(set(names)) < len(names):
        parser.error('--students: a name is given twice; join the files of a student by commas')
    return args


def spread(values: list[float]) -> dict:
    """Mean over images whose maps are not flat, its standard error, and their number; None where too few are left."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return dict(mean=statistics.fmean(values) if values else None, error=error, images=len(values))


def table(students: dict[str, list[dict]]) -> str:
    """A row for each student: means over images and seeds, with the spread over seeds."""
    columns = [(kind, figure) for kind in KINDS for figure in FIGURES]
    heads = [f'{KINDS[kind]}: {FIGURES[figure]}' for kind, figure in columns]
    lines = ['| student | seeds | ' + ' | '.join(heads) + ' |', '|' + '---|' * (2 + len(columns))]
    for name, seeds in students.items():
        cells = []
        for kind, figure in columns:
            values = [seed[kind][figure]['mean'] for seed in seeds if seed[kind][figure]['images']]
            several = f' ± {statistics.stdev(values):.3f}' if len(values) > 1 else ''
            cells.append(f'{statistics.fmean(values):.3f}{several}' if values else 'flat')
        lines.append(f'| {name} | {len(seeds)} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def draw(students: dict[str, list[dict]], path: Path) -> None:
    """A panel for each kind of map and figure; a mark for each seed, with twice the standard error over images."""
    rows = list(reversed(students))
    size = (4 * len(FIGURES), 2 * (1 + 0.35 * len(rows)))
    figure, panels = plt.subplots(len(KINDS), len(FIGURES), figsize=size, layout='constrained', squeeze=False)
    for line, kind in zip(panels, KINDS):
        for axes, name in zip(line, FIGURES):
            for row, seeds in enumerate(students[student] for student in rows):
                for i, seed in enumerate(seeds):
                    at = seed[kind][name]
                    if at['error'] is None:
                        continue
                    y = row + 0.22 * (i - (len(seeds) - 1) / 2)
                    axes.errorbar(at['mean'], y, xerr=2 * at['error'], color=f'C{row % 10}', marker='o', capsize=2)
            axes.set_yticks(range(len(rows)), rows if axes is line[0] else [])
            axes.set(ylim=(-0.6, len(rows) - 0.4), title=f'{KINDS[kind]}: {FIGURES[name]}')
            axes.title.set_fontsize(9)
            axes.grid(axis='x', alpha=0.3)
    figure.suptitle('Agreement with the teacher: a mark a seed, bars are two standard errors over images', size=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv=None) -> dict:
    """Run the command line ``argv`` (default: ``sys.argv``); returns the results."""
    args = parse_args(argv)
    torch.manual_seed(0)
    MMLogger.get_instance('saliency', log_level='WARNING')
    cfg = saliency.read_config(args)
    teacher, named = saliency.build_teacher(cfg, args)
    students = {}
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        items = list(saliency.read_images(cfg, None, args.first))
        for name, files in args.students:
            students[name] = []
            for file in files:
                network = saliency.build(cfg, file, f'--students {name}').to(args.device)
                batches = (pseudo_collate([item]) for item in track(items, f'{name}, {Path(file).name}'))
                report = compare(teacher, network, batches, top=args.top)
                means = {kind: {f: spread(report.values(kind, f)) for f in FIGURES} for kind in KINDS}
                students[name].append(dict(means, checkpoint=file))
    print(table(students))
    result = dict(
        command='python tools/analysis_tools/saliency_students.py ' + shlex.join(argv or sys.argv[1:]),
        commit=commit(),
        date=time.strftime('%Y-%m-%d'),
        versions=dict(mmsnn=mmsnn.__version__, torch=torch.__version__),
        **named,
        images=len(items),
        top=args.top,
        students=students,
    )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + '\n')
        draw(students, args.out.with_suffix('.png'))
    return result


if __name__ == '__main__':
    run_main(main)
