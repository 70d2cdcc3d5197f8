"""Search the form of SAKD's level 2 on dense tasks: what teaches beside level 1, how strongly and for how long.

Every trial is a student with level 1 and one form of level 2, trained with seed 0; optuna chooses form and weight. The
best forms, level 1 alone and the default are then trained with other seeds. tools/train.py runs every training, so the
same command continues an interrupted search, and makes table and plot again when all is trained.
"""

import argparse
import json
import logging
import shlex
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pprint import pformat

import optuna
import torch
import trainings
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

import mmsnn
from mmsnn.refusals import run_main
from mmsnn.shipped import commit

STAGES = [f'backbone.layer{i}' for i in range(1, 5)]
ALONE = 'level 1 alone'


def both(taps, **term) -> dict:
    """A term that reads the same taps of student and teacher."""
    return dict(term, student=taps, teacher=taps)


FEATURES = {
    'stages': [both(STAGES, type='FeatureMSE', connector=dict(type='ConvBN'), weight=0.1)],
    'stages, PKD': [both(STAGES, type='PKD', weight=1.0)],
    'stages, attention': [both(STAGES, type='AttentionMSE', weight=100.0)],
    'stages, membranes': [
        dict(
            type='FeatureMSE',
            student=[f'{stage}@v' for stage in STAGES],
            teacher=STAGES,
            connector=dict(type='ConvBN'),
            weight=0.1,
        )
    ],
}
PROPOSALS = both('rpn_head[0]', type='DenseResponse', head='rpn_head', weight=1.0)
PROPOSED = both(['rpn_head[0]', 'rpn_head[1]'], type='BoxResponse', head='rpn_head', weight=1.0)
CLASSES = both('bbox_head[0]', type='DenseResponse', weight=1.0)
BOXES = both(['bbox_head[0]', 'bbox_head[1]'], type='BoxResponse', weight=1.0)
FOCAL = both('neck', type='FGD', weight=0.03)
MASKED = both('neck', type='BlurMSE', connector=dict(type='BlurRestore', mask='spatial', ratio=0.65), weight=2e-5)
PIXELS = both('decode_head.conv_seg', type='PixelKL', weight=1.0)
CHANNELS = both('decode_head.conv_seg', type='ChannelWiseKL', weight=3.0)
CORRELATION = both('decode_head.conv_seg', type='DIST', weight=1.0)
# Weights are those of the papers where they suit networks of this width, and our guess elsewhere: with theirs, PKD (6)
# and FGD (1) on the pyramid would be ten times the task's loss. The search multiplies all of a form by one factor.
PYRAMID = {
    'pyramid, PKD': [both('neck', type='PKD', weight=1.0)],
    'pyramid, FGD': [FOCAL],
    'pyramid, MGD': [MASKED],
    'pyramid, channels': [both('neck', type='ChannelWiseKL', tau=1.0, weight=1.0)],
}
DETECTION = {
    **FEATURES,
    **PYRAMID,
    'classes': [CLASSES],
    'boxes': [BOXES],
    'classes, boxes': [CLASSES, BOXES],
    'classes, boxes, FGD': [CLASSES, BOXES, FOCAL],
}
# proposals of student and teacher differ, so what the heads behind them answer is no common ground
TWO_STAGE = {
    **FEATURES,
    **PYRAMID,
    'proposals': [PROPOSALS],
    'proposals, boxes': [PROPOSALS, PROPOSED],
}
FORMS = {
    'bccd': DETECTION,
    'penn_fudan': DETECTION,
    'penn_fudan_masks': TWO_STAGE,
    'camvid': {
        **FEATURES,
        'pixels': [PIXELS],
        'channels': [CHANNELS],
        'correlation': [CORRELATION],
        'pixels, channels': [PIXELS, CHANNELS],
        'channels, PKD': [CHANNELS, *FEATURES['stages, PKD']],
    },
}
FACTORS = 0.03, 30.0
SCHEDULES = 'kept', 'fades'


def losses_of(task: str, form: str, factor: float, schedule: str, epochs: int) -> dict:
    """The Distiller's ``losses``: with ``fades`` the weights fall to 0 in the first half of the epochs."""
    out = {}
    for i, term in enumerate(FORMS[task].get(form, [])):
        weight = float(f'{term["weight"] * factor:.3g}')
        if schedule == 'fades':
            weight = dict(kind='linear', values=[weight, 0.0], milestones=[0, max(1, epochs // 2)], by='epoch')
        out[f'loss_{i}_{term["type"]}'] = dict(term, weight=weight)
    return out


class Search:
    """The trainings of one task with some of its ``FORMS``; ``epochs`` and ``T`` replace the config's."""

    def __init__(self, task: str, work: Path, epochs: int | None, T: int | None, threads: int, forms: list[str]):
        self.task, self.about, self.threads, self.forms = task, trainings.TASKS[task], threads, forms
        self.base = trainings.ROOT / f'configs/sakd/{self.about.student}.py'
        plans = trainings.plan(task, 1, ['SAKD'], work, epochs)
        self.teacher = plans['teacher'][0]
        self.options = plans['SAKD'][0].options + ([f'model.student.backbone.T={T}'] if T else [])
        self.epochs = plans['SAKD'][0].epochs
        self.work = work / f'{task}_{self.epochs}epochs{f"_T{T}" if T else ""}'

    def run(self, form: str, factor: float, schedule: str, seed: int) -> trainings.Run:
        """A training; the default is the config as it stands."""
        if form == 'default':
            return trainings.Run(self.base, self.work / 'default' / f'seed{seed}', seed, self.options)
        name = form if form == ALONE else f'{form}_{factor:.3g}_{schedule}'
        folder = self.work / name.replace(', ', '_').replace(' ', '')
        folder.mkdir(parents=True, exist_ok=True)
        losses = dict(losses_of(self.task, form, factor, schedule, self.epochs), _delete_=True)
        config = folder / 'config.py'
        config.write_text(f'_base_ = [{str(self.base)!r}]\nmodel = dict(losses={pformat(losses)})\n')
        return trainings.Run(config, folder / f'seed{seed}', seed, self.options)

    def result(self, *form) -> float:
        """The last validation in per cent; trains unless that is done."""
        run = self.run(*form)
        if not run.finished():
            run.train(self.threads)
        curve = run.curve(self.about.metric)
        return round(curve[max(curve)] * self.about.factor, 2)

    def trial(self, trial: optuna.Trial) -> float:
        """Optuna's objective."""
        form = trial.suggest_categorical('form', self.forms)
        factor = float(f'{trial.suggest_float("factor", *FACTORS, log=True):.3g}')
        value = self.result(form, factor, trial.suggest_categorical('schedule', list(SCHEDULES)), 0)
        print(f'{self.task}: {form} x {factor:.3g}, {trial.params["schedule"]}: {value}', flush=True)
        return value

    def search(self, trials: int, jobs: int) -> list[tuple[float, str, float, str]]:
        """All trials, best first: result, form, factor, schedule. Each form's own weight is tried first."""
        self.work.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            study_name=', '.join(self.forms),  # optuna wants equal choices in a study
            storage=JournalStorage(JournalFileBackend(str(self.work / 'optuna.log'))),
            sampler=optuna.samplers.TPESampler(seed=0, constant_liar=True, n_startup_trials=len(self.forms)),
            direction='maximize',
            load_if_exists=True,
        )
        if not study.trials:
            for form in self.forms:
                study.enqueue_trial(dict(form=form, factor=1.0, schedule='kept'))
        self._retry(study)
        done = len(study.get_trials(states=[TrialState.COMPLETE]))
        if trials > done:
            study.optimize(self.trial, trials - done, n_jobs=jobs)
        ended = study.get_trials(states=[TrialState.COMPLETE])
        rows = [(t.value, t.params['form'], float(f'{t.params["factor"]:.3g}'), t.params['schedule']) for t in ended]
        return sorted(rows, reverse=True)

    @staticmethod
    def _retry(study: optuna.Study) -> None:
        """Queue the trials that an interrupted search has begun; their trainings resume."""
        begun = study.get_trials(states=[TrialState.RUNNING, TrialState.FAIL])
        for trial in begun:
            if trial.state == TrialState.RUNNING:
                study.tell(trial.number, state=TrialState.FAIL)
        known = [trial.params for trial in study.get_trials(states=[TrialState.COMPLETE])]
        for trial in begun:
            if trial.params not in known and len(trial.params) == 3:
                known.append(trial.params)
                study.enqueue_trial(trial.params, skip_if_exists=False)

    def confirm(self, rows: list, best: int, seeds: int, jobs: int) -> dict[str, list[float]]:
        """Results of seeds 1 to ``seeds`` of level 1 alone, the default and the ``best`` rows of different forms."""
        chosen = {ALONE: (ALONE, 1.0, 'kept'), 'default': ('default', 1.0, 'kept')}
        forms = set()
        for _, form, factor, schedule in rows:
            if form not in forms and len(forms) < best:
                forms.add(form)
                chosen[f'{form} x {factor:.3g}, {schedule}'] = (form, factor, schedule)
        with ThreadPoolExecutor(jobs) as pool:
            futures = {
                (name, seed): pool.submit(self.result, *form, seed)
                for seed in range(seeds + 1)
                for name, form in chosen.items()
            }
        return {name: [futures[name, seed].result() for seed in range(seeds + 1)] for name in chosen}


def table(result: dict) -> str:
    """The confirmed forms and the trials as Markdown."""
    lines = ['| form | seed of the search | other seeds | mean +- spread of the others |', '|' + '---|' * 4]
    for name, (first, *others) in result['confirmed'].items():
        spread = f' +- {statistics.stdev(others):.1f}' if len(others) > 1 else ''
        mean = f'{statistics.mean(others):.1f}{spread}' if others else ''
        lines.append(f'| {name} | {first:.1f} | {", ".join(f"{v:.1f}" for v in others)} | {mean} |')
    lines += ['', '| trial | factor | schedule | result |', '|' + '---|' * 4]
    lines += [
        f'| {form} | {factor:.3g} | {schedule} | {value:.1f} |' for value, form, factor, schedule in result['trials']
    ]
    return '\n'.join(lines)


def draw(result: dict, path: Path) -> None:
    """All trials by form over the factor, with level 1 alone of all seeds as a band."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 5), layout='constrained')
    alone = result['confirmed'][ALONE]
    axes.axhspan(min(alone), max(alone), color='grey', alpha=0.3, label=f'{ALONE}, {len(alone)} seeds')
    forms = [form for form in FORMS[result['task']] if any(form == name for _, name, *_ in result['trials'])]
    colours = plt.get_cmap('tab20').colors
    for form, colour in zip(forms, colours, strict=False):
        axes.scatter([], [], color=colour, label=form)
        for schedule, mark in zip(SCHEDULES, 'ox', strict=True):
            points = [(f, v) for v, name, f, s in result['trials'] if name == form and s == schedule]
            axes.scatter(*zip(*points, strict=True) if points else ([], []), marker=mark, color=[colour])
    title = 'seed 0; circles: weight kept, crosses: fading'
    axes.set(xscale='log', xlabel='factor of the weight', ylabel=trainings.TASKS[result['task']].unit, title=title)
    axes.legend(fontsize=8, loc='upper left', bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv=None) -> None:
    """Run the command line ``argv`` (default: ``sys.argv``)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('task', choices=list(FORMS))
    parser.add_argument('--forms', nargs='+', metavar='FORM', help='the forms to try (default: all of the task)')
    parser.add_argument('--trials', type=int, default=30, help='number of trainings of the search (default: 30)')
    parser.add_argument('--best', type=int, default=3, help='how many forms are trained with other seeds (default: 3)')
    parser.add_argument('--seeds', type=int, default=3, help='number of other seeds (default: 3)')
    parser.add_argument('--epochs', type=int, help="epochs of the students; default: their config's")
    parser.add_argument('--T', type=int, help="time steps of the students; default: their config's")
    parser.add_argument('--jobs', type=int, default=2, help='number of trainings that run at once (default: 2)')
    parser.add_argument('--threads', type=int, default=1, help='threads of a training (default: 1)')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/level2'))
    parser.add_argument('--out', type=Path, metavar='FILE.json', help='also write results, and a plot FILE.png')
    args = parser.parse_args(argv)
    if unknown := set(args.forms or ()) - set(FORMS[args.task]):
        parser.error(
            f'unknown forms {", ".join(sorted(unknown))}; those of {args.task} are {"; ".join(FORMS[args.task])}'
        )
    optuna.logging.set_verbosity(logging.WARNING)
    search = Search(
        args.task, args.work_dir.resolve(), args.epochs, args.T, args.threads, args.forms or list(FORMS[args.task])
    )
    if not search.teacher.finished():
        search.teacher.train(args.threads * args.jobs)
    rows = search.search(args.trials, args.jobs)
    confirmed = search.confirm(rows, args.best, args.seeds, args.jobs)
    curve = search.teacher.curve(search.about.metric)
    result = dict(
        command='python tools/benchmarks/level2.py ' + shlex.join(argv or sys.argv[1:]),
        commit=commit(),
        date=time.strftime('%Y-%m-%d'),
        versions=dict(mmsnn=mmsnn.__version__, torch=torch.__version__, optuna=optuna.__version__),
        task=args.task,
        unit=search.about.unit,
        epochs=search.epochs,
        T=args.T,
        teacher=round(curve[max(curve)] * search.about.factor, 2),
        confirmed=confirmed,
        trials=rows,
    )
    print(f'teacher {result["teacher"]}', table(result), sep='\n\n')
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + '\n')
        draw(result, args.out.with_suffix('.png'))


if __name__ == '__main__':
    run_main(main)
