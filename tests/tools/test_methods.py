"""The comparison of methods: what is planned and in which order, and the table of logs written by the test."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / 'tools/benchmarks'


@pytest.fixture
def trainings(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module('trainings')
    sys.modules.pop('trainings')


@pytest.fixture
def methods(trainings):
    spec = importlib.util.spec_from_file_location('methods', FOLDER / 'methods.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(run, curve, metric='coco/bbox_mAP', finished=True):
    log = run.folder / '20260101_000000/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    lines = [{'loss': 1.0, 'step': 1}, *({metric: v, 'step': e} for e, v in curve.items())]
    log.write_text('\n'.join(map(json.dumps, lines)))
    if finished:
        (run.folder / 'finished').touch()


def test_plan(trainings, tmp_path):
    runs = trainings.plan('cifar10', 2, list(trainings.METHODS), tmp_path)
    names = [name for name, method in trainings.METHODS.items() if 'cifar10' in method.tasks]
    assert set(runs) == {'teacher', *names}
    assert runs['SAKD level 1'][1].options[1:] == ['model.losses=None'] and runs['SAKD level 1'][1].seed == 1
    # no teacher, no checkpoint of one
    assert runs['undistilled'][0].options == runs['TET'][0].options == runs['TSSD'][0].options == []
    assert all(run.config.exists() for group in runs.values() for run in group)
    assert len({run.folder for group in runs.values() for run in group}) == 1 + 2 * len(names)
    for task in ('bccd', 'camvid'):
        dense = trainings.plan(task, 1, list(trainings.METHODS), tmp_path)
        assert {'teacher', 'undistilled', 'SAKD', 'BKD', 'LaSNN, beta 1000', 'affine, spikes'} <= set(dense)
        assert all(run.config.exists() for group in dense.values() for run in group)


def test_longer(trainings, tmp_path):
    """A training of another length has its own folder, beside the same teacher; its rate falls over all of it."""
    runs = trainings.plan('cifar10', 1, ['SAKD', 'TET'], tmp_path, epochs=15)
    assert runs['teacher'][0].folder == tmp_path / 'cifar10/teacher'
    run = runs['SAKD'][0]
    assert run.folder == tmp_path / 'cifar10_15epochs/SAKD/seed0' and run.epochs == 15
    assert run.options[0].endswith('cifar10/teacher/teacher.pth')
    cfg = trainings.Config.fromfile(run.config)
    cfg.merge_from_dict(dict(option.split('=') for option in run.options[1:]))
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[-1].T_max == '15'
    assert cfg.param_scheduler[-1].type == 'CosineAnnealingLR'


R56 = 'affine, by ResNet-56'


def test_given_teacher(methods, trainings, tmp_path, monkeypatch):
    """Published weights are tested, once, and taught with; nothing is trained."""
    monkeypatch.setenv('MMSNN_DATA_ROOT', str(tmp_path))
    runs = trainings.plan('r20', 1, ['undistilled', 'SAKD', 'BKD, no blur', R56], tmp_path / 'work', epochs=5)
    (teacher,) = runs['teacher']
    assert teacher.weights == tmp_path / 'cifar_resnets/resnet20-12fca82f.th'
    commands = []
    monkeypatch.setattr(trainings.subprocess, 'run', lambda command, **_: (commands.append(command), teacher)[1])
    monkeypatch.setattr(teacher, 'returncode', 0, raising=False)
    teacher.train(1)
    assert commands[0][1].endswith('tools/test.py') and commands[0][-1] == str(teacher.weights)
    assert (teacher.folder / 'teacher.pth').readlink() == teacher.weights
    (teacher.folder / '20260101').mkdir()
    (teacher.folder / '20260101/20260101.json').write_text(json.dumps({'accuracy/top1': 91.7}))
    result = methods.summary('r20', runs)
    assert result['final']['teacher'] == [91.7] and result['epochs']['teacher'] == 0
    assert runs['BKD, no blur'][0].options[1] == 'model.losses.loss_blur.connector.ratio=0'
    own, teacher, other, *_ = runs[R56][0].options
    assert teacher == 'model.teacher=mmsnn::ann/r56_cifar10.py' and own.startswith('model.teacher_checkpoint=')
    assert other == f'model.teacher_checkpoint={tmp_path}/cifar_resnets/resnet56-4bfd9763.th'


def test_other_students(trainings, tmp_path):
    runs = trainings.plan('backbones', 1, list(trainings.METHODS), tmp_path)
    assert set(runs) == {'undistilled', 'MS-ResNet-18', 'Spikformer-4-256'}
    backbones = {name: trainings.Config.fromfile(run.config).model.backbone.type for name, (run,) in runs.items()}
    assert list(backbones.values()) == ['mmsnn.SpikingResNet', 'mmsnn.MSResNet', 'mmsnn.Spikformer']


def test_order(trainings, tmp_path):
    """Teachers first, then a whole table of the first seed; what is finished is left out."""
    plans = {task: trainings.plan(task, 2, ['undistilled', 'SAKD'], tmp_path) for task in ('cifar10', 'bccd')}
    write(plans['bccd']['SAKD'][0], {4: 0.3})
    teachers, students = trainings.in_order(plans)
    assert [run.folder.parent.name for run in teachers] == ['cifar10', 'bccd']
    assert [run.seed for run in students] == [0] * 3 + [1] * 4


def test_share_that_is_done(trainings, tmp_path):
    run = trainings.plan('cifar10', 1, ['undistilled'], tmp_path)['undistilled'][0]
    assert run.done() == 0
    write(run, {}, finished=False)
    log = next(run.folder.glob('*/vis_data/scalars.json'))
    log.write_text(json.dumps({'loss': 1.0, 'epoch': 3, 'step': 9}) + '\n{"torn')
    assert run.done() == pytest.approx(2 / 5)
    (run.folder / 'finished').touch()
    assert run.done() == 1


def test_summary_table_and_plot(methods, trainings, tmp_path):
    runs = trainings.plan('bccd', 2, ['undistilled', 'BKD', 'SAKD'], tmp_path)
    write(runs['teacher'][0], {10: 0.5})
    for run, last in zip(runs['undistilled'], (0.2, 0.4), strict=True):
        write(run, {2: 0.1, 4: last})
    for run, first in zip(runs['BKD'], (0.31, 0.29), strict=True):
        write(run, {2: first, 4: 0.45})
    write(runs['SAKD'][0], {2: 0.4}, finished=False)
    result = methods.summary('bccd', runs)
    assert result['final'] == {'teacher': [50.0], 'undistilled': [20.0, 40.0], 'BKD': [45.0, 45.0], 'SAKD': []}
    assert result['gain'] == {'BKD': 15.0} and result['gap_closed'] == {'BKD': 0.75}
    assert result['first_epoch_at_undistilled'] == {'BKD': [2, 4]}
    text = methods.table([result])
    assert '| bccd | undistilled | 4 | 20.0, 40.0 | 30.0 +- 14.1 |' in text
    assert '| bccd | BKD | 4 | 45.0, 45.0 | 45.0 +- 0.0 | +15.0 | 75% | 2, 4 |' in text
    assert 'SAKD' not in text
    lines = methods.overview([result, methods.summary('camvid', {})]).splitlines()
    assert lines[0] == '| | BCCD, mAP (%) | CamVid, mIoU (%) |'
    assert lines[2:] == [
        '| teacher | 50.0 |  |',
        '| undistilled | 30.0 +- 14.1 |  |',
        '| BKD | 45.0 +- 0.0 (+15.0) |  |',
    ]
    methods.draw(json.loads(json.dumps(result)), tmp_path / 'plot.png')
    assert (tmp_path / 'plot.png').stat().st_size > 10_000


def test_only_the_table(methods, trainings, tmp_path, capsys):
    """Nothing is trained; the result file tells how it was made."""
    for run in trainings.plan('cifar10', 1, ['undistilled'], tmp_path)['undistilled']:
        write(run, {5: 40.0}, 'accuracy/top1')
    arguments = ['cifar10', '--seeds', '1', '--methods', 'undistilled', '--work-dir', str(tmp_path), '--no-train']
    methods.main([*arguments, '--out', str(tmp_path / 'out.json')])
    assert '| cifar10 | undistilled | 5 | 40.0 |' in capsys.readouterr().out
    written = json.loads((tmp_path / 'out.json').read_text())
    assert written['command'].startswith('python tools/benchmarks/methods.py cifar10 --seeds 1')
    assert written['results'][0]['final'] == {'teacher': [], 'undistilled': [40.0]}


def test_unknown_task_is_named(methods, capsys):
    with pytest.raises(SystemExit):
        methods.main(['nothing'])
    assert 'unknown tasks nothing' in capsys.readouterr().err


def test_the_readme_shows_the_results(methods):
    """The table in configs/README.md is what the tool prints for the file of results."""
    results = json.loads((FOLDER / 'results/methods.json').read_text())['results']
    printed = methods.overview(results).splitlines()[2:]
    text = (FOLDER.parents[1] / 'configs/README.md').read_text().split('## Measured')[1]
    rows = [[cell.strip() for cell in line[1:-1].split('|')] for line in text.splitlines() if line.startswith('| ')]
    shown = {row[0]: row[1:4] for row in rows}
    assert len(printed) > 10
    for line in printed:
        name, *cells = (cell.strip() for cell in line[1:-1].split('|'))
        assert shown[name] == cells


@pytest.mark.parametrize('left, resumes', [(None, False), ('last_checkpoint', True), ('interrupted.pth', True)])
def test_what_a_stopped_training_left(trainings, tmp_path, monkeypatch, left, resumes):
    """The same command goes on from the last checkpoint, or from the one that a signal made before that."""
    run = trainings.plan('bccd', 1, ['SAKD'], tmp_path)['SAKD'][0]
    run.folder.mkdir(parents=True)
    if left:
        (run.folder / left).touch()
    commands = []

    def note(command, **kwargs):
        commands.append(command)
        return trainings.subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(trainings.subprocess, 'run', note)
    run.train(1)
    assert ('--resume' in commands[0]) is resumes and run.finished()
