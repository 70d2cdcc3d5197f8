"""The parts of a report: what of a run goes into each, and which command makes what is missing."""

import shlex

from . import charts
from .panel import Panel
from .results import classes, data
from .runs import Run

# charts of loss terms and of metrics that are drawn at most; the tables hold all
MOST = 24


def curves(run: Run) -> Panel:
    """Every loss term over training."""
    panel = Panel()
    if not run.train:
        panel.missing.append(f'No training was logged here: {run.command("train")} makes the curves.')
        return panel
    for name in [*run.losses[:MOST], *(['lr'] if any('lr' in row for row in run.train.values()) else [])]:
        panel.chart(f'{name} over iterations', charts.loss, run, name)
    last = run.train[max(run.train)]
    rows = []
    for name in run.losses:
        schedule = run.schedules.get(name)
        weight = '' if schedule is None else repr(schedule.values[0]) if not schedule.varies else _schedule(schedule)
        values = [row[name] for row in run.train.values() if name in row]
        rows.append([name, values[0], min(values), last.get(name), weight])
    head = ['loss', 'first', 'lowest', f'at iteration {max(run.train)}', 'weight']
    panel.table(head, rows, 'As logged: a term times its weight.')
    if len(run.losses) > MOST:
        panel.missing.append(f'{len(run.losses) - MOST} more terms stand in the table alone.')
    return panel


def _schedule(schedule) -> str:
    stop = '' if schedule.stop is None else f', 0 from {schedule.by} {schedule.stop}'
    values, places = (', '.join(f'{v:g}' for v in each) for each in (schedule.values, schedule.milestones))
    return f'{schedule.kind} {values}' + (f' at {schedule.by} {places}' if places else '') + stop


def metrics(run: Run) -> Panel:
    """Student and teacher in validation, and the last test."""
    panel = Panel()
    moving = [name for name in run.metrics if len(run.val) == 1 or len({row.get(name) for row in run.val.values()}) > 1]
    for name in moving[:MOST]:
        panel.chart(f'{name} in validation', charts.metric, run, name)
    if run.val:
        names = [*run.metrics, *run.teacher_metrics]
        rows = [[step, *(run.val[step].get(name) for name in names)] for step in sorted(run.val)]
        still = '' if len(moving) == len(run.metrics) else ' A metric that never changes has no chart.'
        panel.table(['epoch' if run.by_epoch else 'iteration', *names], rows, f'Validations.{still}')
        if run.schedules and not run.teacher_metrics:
            panel.missing.append('The teacher was not measured: DistillHook(teacher_accuracy=True) does in validation.')
    else:
        panel.missing.append(f'No validation was logged: {run.command("train")}, with a val_dataloader, makes them.')
    if run.test:
        said = run.records.get('test', {})
        about = [f'of {said["checkpoint"]}'] if said.get('checkpoint') else []
        about += [f'T={said["T"]}'] if said.get('T') else []
        about = about or ['of which checkpoint and T was not recorded']
        panel.table(['metric', 'value'], [[k, v] for k, v in run.test.items()], ', '.join(['Last test', *about]) + '.')
    else:
        panel.missing.append(f'No test was run: {run.command("test")} does.')
    return panel


def rates(run: Run) -> Panel:
    """How often the layers fire over training."""
    panel = Panel()
    if not run.rates:
        spiking = f'{run.command("train")} of a spiking network logs them (FiringRateHook)'
        panel.missing.append(f'No firing rates were logged: {spiking}; an ANN has none.')
        return panel
    size = (4.8, charts.layers_height(run))
    panel.chart('firing rate of every layer over training', charts.rates, run, 'rate', size=size)
    panel.chart('silent channels of every layer over training', charts.rates, run, 'silent', size=size)
    step = max(run.rates)
    layers = run.rates[step]['layers']
    rows = [[name, one['rate'], f'{one["silent_channels"]} of {one["channels"]}'] for name, one in layers.items()]
    panel.table(['layer', 'spikes per neuron and step', 'silent channels'], rows, f'Layers at iteration {step}.')
    return panel


def steps(run: Run) -> Panel:
    """Accuracy and energy against T, early exit, and what a benchmark counted."""
    panel = Panel()
    for name, x in dict(time_steps='T', early_exit='mean_T').items():
        content = run.measured.get(name)
        if content is None:
            continue
        found = content['rows']
        # T or the confidence comes first, then the metrics
        first = next((key for key in run.saved_best if key in found[0]), [*found[0]][1])
        right, label = ('energy_uj', 'energy (uJ)') if name == 'time_steps' else ('ms_per_image', 'ms per image')
        labels = ('time steps' if x == 'T' else 'mean time steps', first, label)
        panel.chart(f'{first} and {label} against {x}', charts.against, found, x, first, right, labels)
        caption = f'{content["note"]} Of {content["checkpoint"]}.'
        panel.table([*found[0]], [list(row.values()) for row in found], caption)
    found = run.measured.get('benchmark')
    if found is not None:
        panel.table(['benchmark', 'value'], _benchmark(found), f'Of {found["checkpoint"]}, on {found["device"]}.')
    for name, option in dict(time_steps=('--T', '1', '2', '4'), benchmark=('--benchmark',)).items():
        if name not in run.measured:
            what = 'Accuracy and energy against T' if name == 'time_steps' else 'Energy, speed and memory'
            panel.missing.append(f'{what}: {run.command("test", *option)} measures.')
    return panel


def _benchmark(found: dict) -> list[list]:
    rows = [['images per second', found['images_per_second']], ['peak memory (MiB)', found['peak_memory_mib']]]
    rows += [[f'ms per image, {k}', v] for k, v in found['milliseconds'].items() if v is not None]
    energy = found['energy']
    rows += [[f'energy: {k}', v] for k, v in energy.items() if isinstance(v, (int, float))]
    rows += [['mean silent channels', found['silent_channels']]] if 'silent_channels' in found else []
    return rows


def clocks(run: Run) -> Panel:
    """Seconds and memory of the training."""
    panel, said = Panel(), run.records.get('run', {})
    rows = []
    for key, label in dict(time='seconds an iteration', data_time='seconds of it that wait for data').items():
        if any(key in row for row in run.train.values()):
            panel.chart(f'{label} over training', charts.column, run, key, label)
            rows.append([f'{label}, last', run.train[max(run.train)].get(key)])
    if any('memory' in row for row in run.train.values()):
        panel.chart('GPU memory over training', charts.column, run, 'memory', 'memory of the GPU (MB)')
        rows.append(['memory of the GPU (MB), highest', max(row.get('memory', 0) for row in run.train.values())])
    for key, label in dict(seconds='the whole run (s)', memory_mib='peak memory (MiB)').items():
        if said.get(key) is not None:
            rows.append([label, said[key]])
    if rows:
        panel.table(['', 'value'], rows)
    else:
        panel.missing.append(f'No times were logged: {run.command("train")} logs them.')
    return panel


def config(run: Run) -> Panel:
    """What the config changes in its base, and the command line in the config."""
    panel, said = Panel(), run.records.get('run', {})
    head = ['key', 'before', 'now']
    found = said.get('changes')
    if isinstance(found, str):
        panel.lines.append(found)
    elif found:
        panel.table(head, found, f'What {said["config"]} changes in its base.')
    elif found is not None:
        panel.lines.append(f'{said["config"]} changes nothing in its base.')
    elif said:
        panel.missing.append('What the config changes in its base could not be found out; the log says why.')
    if said.get('options'):
        panel.table(head, said['options'], 'What the command line changed in that.')
    if said.get('command'):
        panel.lines.append(f'Command: {said["command"]}')
    if not said:
        copy = next(iter(sorted(run.folder.glob('*.py'))), None)
        whole = f'; {copy} is the whole config' if copy else ''
        panel.missing.append(f'What the config changes was not recorded: mmsnn train and test of now do{whole}.')
    return panel


def versions(run: Run) -> Panel:
    """Of what ran it."""
    panel, said = Panel(), run.records.get('run', {})
    if said.get('versions'):
        rows = [*said['versions'].items(), ('machine', said['machine']), ('device', said['device'])]
        panel.table(['', 'version'], [[name, str(value)] for name, value in rows], f'Run of {said["started"]}.')
    else:
        panel.missing.append('Versions were not recorded; the *.log files in the folder begin with them.')
    return panel


def commands(run: Run) -> Panel:
    """What to type next."""
    panel, here = Panel(), ('--work-dir', run.folder)
    if run.unfinished:
        panel.commands.append(run.command('train', *here, '--resume'))
    shown = ('--show-dir', run.folder / 'shown')
    panel.commands += [run.command('test', *here, *more) for more in ((), ('--benchmark',), ('--T', 1, 2, 4), shown)]
    panel.commands.append(run.command('look', 'IMAGE'))
    panel.commands.append(run.command('deploy', '--to', 'onnx', '--out', run.folder / 'model.onnx'))
    panel.commands.append(shlex.join(['mmsnn', 'report', str(run.folder), 'OTHER_WORK_DIR']))
    return panel


SECTIONS = {
    'Metrics': metrics,
    'Learning curves': curves,
    'By class': classes,
    'Labels': data,
    'Firing rates': rates,
    'Time steps and energy': steps,
    'Time and memory': clocks,
    'Config': config,
    'Versions': versions,
    'Next': commands,
}
