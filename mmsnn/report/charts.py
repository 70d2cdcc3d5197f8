"""The charts of a report: matplotlib draws each into an SVG that stands in the page by itself."""

import base64
import io
from collections.abc import Callable

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .runs import Run

STUDENT, TEACHER, WEIGHT = 'tab:blue', 'tab:orange', 'tab:grey'
STYLE = {'font.size': 8, 'axes.spines.top': False, 'axes.spines.right': False, 'lines.linewidth': 1.4}
# the browser writes the texts, which keeps the files small
STYLE |= {'svg.fonttype': 'none', 'font.family': 'sans-serif'}
# room around axes of plain curves; the charts with names beside them take the time to measure these
MARGINS = dict(left=0.14, right=0.97, bottom=0.17, top=0.9)
# rows of a chart of layers or classes that can still be read
ROWS = 36


def svg(draw: Callable, *args, size: tuple[float, float] | None = None) -> str:
    """``draw(figure, *args)`` as the address of an image in the page; a ``size`` leaves room for names beside it."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size or (4.4, 2.6), layout='constrained' if size else None)
        if size is None:
            figure.subplots_adjust(**MARGINS)
        draw(figure, *args)
        file = io.BytesIO()
        figure.savefig(file, format='svg', metadata=dict(Date=None))
    return f'data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}'


def _curve_axes(figure):
    axes = figure.subplots()
    # epochs and iterations are whole
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return axes


def loss(figure, run: Run, name: str) -> None:
    """A loss over iterations, with its weight where that changes."""
    axes = _curve_axes(figure)
    steps = sorted(step for step, row in run.train.items() if name in row)
    values = [run.train[step][name] for step in steps]
    axes.plot(steps, values, color=STUDENT, marker='.' if len(steps) < 3 else None)
    positive = [v for v in values if v > 0]
    if len(positive) == len(values) and max(positive) > 50 * min(positive):
        axes.set_yscale('log')
    axes.set(title=name, xlabel='iteration')
    weights = run.weights(name)
    if weights:
        figure.subplots_adjust(right=0.86)
        other = axes.twinx()
        other.spines.right.set_visible(True)
        other.plot(sorted(weights), [weights[step] for step in sorted(weights)], color=WEIGHT, linestyle='--')
        other.set_ylim(bottom=0)
        other.set_ylabel('weight (dashed)', color=WEIGHT)


def column(figure, run: Run, name: str, label: str) -> None:
    """One column of the log of a training over iterations."""
    axes = _curve_axes(figure)
    steps = sorted(step for step, row in run.train.items() if name in row)
    axes.plot(steps, [run.train[step][name] for step in steps], color=STUDENT)
    axes.set(title=label, xlabel='iteration')
    axes.set_ylim(bottom=0)


def metric(figure, run: Run, name: str) -> None:
    """A metric in validation, the teacher's beside the student's."""
    axes = _curve_axes(figure)
    for label, colour, key in [('student', STUDENT, name)] + [
        (teacher.partition('/')[0], TEACHER, teacher) for teacher, own in run.teacher_metrics.items() if own == name
    ]:
        steps = sorted(step for step, row in run.val.items() if key in row)
        style = '--' if key != name else '-'
        axes.plot(steps, [run.val[s][key] for s in steps], style, color=colour, label=label, marker='.')
    axes.set(title=name, xlabel='epoch' if run.by_epoch else 'iteration')
    if len(axes.lines) > 1:
        axes.legend(frameon=False)


def compared(figure, runs: dict[str, Run], part: str, name: str) -> None:
    """One column of several runs: ``part`` is ``train`` or ``val``."""
    axes = _curve_axes(figure)
    for label, run in runs.items():
        rows = getattr(run, part)
        steps = sorted(step for step, row in rows.items() if name in row)
        axes.plot(steps, [rows[s][name] for s in steps], marker='.' if len(steps) < 30 else None, label=label)
    first = next(iter(runs.values()))
    axes.set(title=name, xlabel='epoch' if part == 'val' and first.by_epoch else 'iteration')
    axes.legend(frameon=False)


def rates(figure, run: Run, key: str) -> None:
    """``rate`` or the share of ``silent_channels`` of every layer over training."""
    axes = figure.subplots()
    steps = sorted(run.rates)
    layers = list(dict.fromkeys(name for row in run.rates.values() for name in row['layers']))
    table = np.full((len(layers), len(steps)), np.nan)
    for k, step in enumerate(steps):
        for name, layer in run.rates[step]['layers'].items():
            share = layer['silent_channels'] / max(layer['channels'], 1)
            table[layers.index(name), k] = layer['rate'] if key == 'rate' else share
    colours, top = ('viridis', max(np.nanmax(table), 1e-6)) if key == 'rate' else ('Reds', 1)
    drawn = axes.imshow(table, aspect='auto', cmap=colours, vmin=0, vmax=top, interpolation='nearest')
    every = -(-len(layers) // ROWS)
    axes.set_yticks(range(0, len(layers), every), layers[::every], fontsize=6)
    wide = -(-len(steps) // 6)
    axes.set_xticks(range(0, len(steps), wide), steps[::wide])
    axes.spines[:].set_visible(False)
    title = 'spikes per neuron and time step' if key == 'rate' else 'share of silent channels'
    axes.set(xlabel='iteration', title=title)
    figure.colorbar(drawn, ax=axes, fraction=0.05)


def layers_height(run: Run) -> float:
    """Inches that a chart of all layers wants."""
    layers = max((len(row['layers']) for row in run.rates.values()), default=0)
    return 1.2 + 0.13 * min(layers, ROWS)


def bars(figure, values: dict[str, float], title: str) -> None:
    """Bars by class; of many classes the highest and the lowest."""
    axes = figure.subplots()
    shown = shorten(values)
    axes.barh(range(len(shown)), list(shown.values()), color=STUDENT)
    axes.set_yticks(range(len(shown)), list(shown), fontsize=7)
    axes.invert_yaxis()
    axes.set_title(title if len(shown) == len(values) else f'{title}; the {len(shown)} outermost of {len(values)}')


def shorten(values: dict[str, float]) -> dict[str, float]:
    """All values in their order, or of many the highest and the lowest, sorted."""
    if len(values) <= ROWS:
        return values
    order = sorted(values, key=lambda name: -values[name])
    return {name: values[name] for name in (*order[: ROWS // 2], *order[-ROWS // 2 :])}


def confusion(figure, matrix: list[list[int]], names: list[str]) -> None:
    """Shares of each true class that are taken for each class."""
    axes = figure.subplots()
    counts = np.array(matrix, dtype=float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap='Blues', vmin=0, vmax=1, interpolation='nearest')
    every = -(-len(names) // ROWS)
    axes.set_xticks(range(0, len(names), every), names[::every], rotation=90, fontsize=6)
    axes.set_yticks(range(0, len(names), every), names[::every], fontsize=6)
    if len(names) <= 12:
        for i, row in enumerate(shares):
            for j, share in enumerate(row):
                colour = 'white' if share > 0.5 else 'black'
                axes.text(j, i, f'{share:.0%}', ha='center', va='center', fontsize=6, color=colour)
    axes.spines[:].set_visible(False)
    axes.set(xlabel='predicted', ylabel='true', title='confusion, share of the true class')


def precision(figure, curves: dict[str, list[float]]) -> None:
    """Precision over recall of each class at an overlap of 0.5."""
    axes = figure.subplots()
    few = len(curves) <= 10
    for name, values in curves.items():
        recalls = np.linspace(0, 1, len(values))
        axes.plot(
            recalls, values, label=name if few else None, **({} if few else dict(color='lightgrey', linewidth=0.8))
        )
    if not few:
        mean = np.mean(list(curves.values()), axis=0)
        axes.plot(np.linspace(0, 1, len(mean)), mean, color=STUDENT, label='mean of the classes')
    axes.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02), title='detections, overlap 0.5')
    axes.legend(frameon=False, fontsize=7)


def histogram(figure, values: list[float], label: str) -> None:
    """How often which size occurs."""
    axes = figure.subplots()
    axes.hist(values, bins=30, color=STUDENT)
    axes.set(xlabel=label, ylabel='boxes', title='size of boxes')


def against(figure, rows: list[dict], x: str, left: str, right: str, labels: tuple[str, str, str]) -> None:
    """Two columns of a table over a third: accuracy and energy against T, for instance."""
    axes = _curve_axes(figure) if x == 'T' else figure.subplots()
    xs = [row[x] for row in rows]
    axes.plot(xs, [row[left] for row in rows], color=STUDENT, marker='o')
    axes.set(xlabel=labels[0], title=f'{labels[1]} and {labels[2]}')
    axes.set_ylabel(labels[1], color=STUDENT)
    figure.subplots_adjust(right=0.86)
    other = axes.twinx()
    other.spines.right.set_visible(True)
    other.plot(xs, [row[right] for row in rows], color=TEACHER, marker='s', linestyle='--')
    other.set_ylabel(labels[2], color=TEACHER)
    other.set_ylim(0, 1.1 * max(row[right] for row in rows) or 1)
