"""The parts of a report about data and predictions: labels, figures by class, pictures, and all runs in one table."""

import base64

from . import charts
from .panel import Panel
from .runs import CLOCKS, Run

# metrics of several runs that are drawn
MOST = 24


def classes(run: Run) -> Panel:
    """Figures by class, and the best and worst pictures."""
    panel = Panel()
    part = next((name for name in ('test', 'val') if name in run.records), None)
    said = run.records.get(part, {})
    if part is None:
        panel.missing.append(f'Figures by class and pictures were not recorded: {run.command("test")} makes them.')
        return panel
    if 'classes' not in said:
        panel.missing.append(f'There are no figures by class: {said.get("problem", "the run broke off")}.')
        return panel
    what = 'test' if part == 'test' else 'last validation'
    panel.lines.append(f'{said["images"]} images of the {what}, T={said["T"]}.')
    rows = said['classes']
    value = dict(classification='f1', detection='AP', segmentation='IoU')[said['kind']]
    values = {row['name']: row[value] for row in rows if row[value] is not None}
    height = 1 + 0.16 * len(charts.shorten(values))
    panel.chart(f'{value} by class', charts.bars, values, f'{value} by class', size=(4.4, height))
    if said.get('curves'):
        panel.chart('precision over recall', charts.precision, said['curves'], size=(4.4, 3.4))
    if said.get('confusion'):
        panel.chart('confusion matrix', charts.confusion, said['confusion'], said['names'], size=(4.6, 4.4))
    panel.table([*rows[0]], [list(row.values()) for row in rows], f'{len(rows)} classes.')
    _add_pictures(panel, run, part, said)
    if said.get('judged', said['images']) < said['images']:
        panel.lines.append(f'The best and the worst are those of {said["judged"]} images, evenly spread.')
    if said.get('no_teacher'):
        panel.missing.append(f'Pictures lack the teacher: {said["no_teacher"]}.')
    if not said.get('pictures'):
        why = said.get('no_pictures') or 'drawing them failed, see the log'
        panel.missing.append(f'There are no pictures: {why}.')
    return panel


def _add_pictures(panel: Panel, run: Run, part: str, said: dict) -> None:
    score = dict(
        classification='score of the true class', detection='AP50 of what is drawn', segmentation='IoU of the image'
    )
    places = {}
    for picture in said.get('pictures') or []:
        which = picture['which']
        place = places[which] = places.get(which, 0) + 1
        title = f'{which} {place}: {picture["name"]}, {score[said["kind"]]} {said["scores"][which][place - 1]:.3f}'
        shown = []
        for one in picture['panels']:
            path = run.pictures[part] / one['file']
            if path.is_file():
                content = base64.b64encode(path.read_bytes()).decode()
                text = one['said'] if one['title'] == 'picture' else f'{one["title"]}: {one["said"]}'.rstrip(': ')
                shown.append(dict(title=one['title'], said=text, src=f'data:image/jpeg;base64,{content}'))
        panel.pictures.append(dict(title=title, panels=shown))


def data(run: Run) -> Panel:
    """Labels and boxes of the training set."""
    panel = Panel()
    said = run.records.get('data')
    if said is None or 'classes' not in said:
        why = f' ({said["problem"]})' if said and 'problem' in said else ''
        check = f'{run.command("check")} says what it reads of them'
        panel.missing.append(f'Statistics of the labels were not recorded{why}; {check}.')
        return panel
    unit = dict(classification='images', detection='boxes', segmentation='pixels')[said['kind']]
    looked = '' if said['looked_at'] == said['images'] else f', {said["looked_at"]} of which were looked at'
    panel.lines.append(f'The training set has {said["images"]} images{looked}.')
    height = 1 + 0.16 * len(charts.shorten(said['classes']))
    panel.chart(f'{unit} by class', charts.bars, said['classes'], f'{unit} by class', size=(4.4, height))
    if said.get('sides'):
        panel.chart('size of boxes', charts.histogram, said['sides'], 'square root of the area in pixels')
    panel.table(['class', unit], [[k, v] for k, v in said['classes'].items()], f'{len(said["classes"])} classes.')
    return panel


def overview(runs: dict[str, Run]) -> Panel:
    """All runs in one table, and what they have in common in one chart each."""
    panel = Panel()
    lines = {'state of the training': [run.status for run in runs.values()]}
    lines['config'] = [run.config for run in runs.values()]
    for part, rows in dict(val='last validation', test='last test').items():
        found = [_last(run, part) for run in runs.values()]
        for name in dict.fromkeys(key for one in found for key in one):
            lines[f'{name}, {rows}'] = [one.get(name) for one in found]
    lines['mean firing rate at the end'] = [_mean_rate(run) for run in runs.values()]
    lines['seconds an iteration, median'] = [_median_time(run) for run in runs.values()]
    kept = {name: values for name, values in lines.items() if any(value is not None for value in values)}
    panel.table(['', *runs], [[name, *values] for name, values in kept.items()])
    if len(runs) > 1:
        every = list(runs.values())
        for name in every[0].metrics[:MOST]:
            if all(name in run.metrics for run in every):
                panel.chart(f'{name} of all runs', charts.compared, runs, 'val', name)
        if all('loss' in run.losses for run in every):
            panel.chart('loss of all runs', charts.compared, runs, 'train', 'loss')
    panel.missing += [f'Left out: {problem}.' for run in runs.values() for problem in run.problems]
    return panel


def _last(run: Run, part: str) -> dict[str, float]:
    row = run.test if part == 'test' else run.val[max(run.val)] if run.val else {}
    return {key: value for key, value in row.items() if key not in CLOCKS}


def _mean_rate(run: Run) -> float | None:
    if not run.rates:
        return None
    layers = run.rates[max(run.rates)]['layers'].values()
    return sum(one['rate'] * one['updates'] for one in layers) / max(sum(one['updates'] for one in layers), 1)


def _median_time(run: Run) -> float | None:
    times = sorted(row['time'] for row in run.train.values() if 'time' in row)
    return times[len(times) // 2] if times else None
