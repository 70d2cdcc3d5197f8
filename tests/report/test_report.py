"""report.html of small trainings of each task: its parts are there, and its figures are those of the logs."""

import base64
import html.parser
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys

import cli
import cv2
import numpy as np
import pytest
import ranks
import tiny
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmseg.evaluation import IoUMetric

from mmsnn.checkpoints.reading import load_file
from mmsnn.report import ReportHook, Run, charts, read_run, sections, write_report
from mmsnn.report.changes import changes, compare, options
from mmsnn.report.evaluation import extremes
from mmsnn.report.page import render

LOGGED = """
val_dataloader = dict(train_dataloader, sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
val_cfg = test_cfg = dict()
visualizer = dict(type='{visualizer}', vis_backends=[dict(type='LocalVisBackend')])
val_evaluator = test_evaluator = {evaluator}
"""
DISTILLED = """
_base_ = 'classifier.py'
model = dict(
    _delete_=True, type='mmsnn.Distiller', student=_base_.model, teacher={teacher!r}, teacher_checkpoint={weights!r},
    losses=dict(
        loss_feature=dict(type='FeatureMSE', student='backbone', teacher='backbone',
                          weight=dict(kind='linear', values=[1.0, 0.0], milestones=[0, 4], by='iter')),
        loss_response=dict(type='LogitKL', student='head.fc', teacher='head.fc', weight=0.25)))
custom_hooks = [dict(type='mmsnn.DistillHook'), dict(type='mmsnn.FiringRateHook', interval=2, window=1)]
"""
SEGMENTOR = """
pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='BaseSegDataset', data_root={root!r}, metainfo=dict(classes=('sky', 'road', '<b>')),
                 data_prefix=dict(img_path='img', seg_map_path='ann'), img_suffix='.png', pipeline=pipeline))
"""


def write_segmentor(folder):
    model = dict(
        type='mmseg.EncoderDecoder',
        data_preprocessor=dict(type='mmseg.SegDataPreProcessor', mean=tiny.MEAN, std=tiny.STD, size=(32, 32)),
        backbone=tiny.SPIKING,
        decode_head=dict(
            type='mmseg.FCNHead', in_channels=64, in_index=3, channels=8, num_convs=1, num_classes=3,
            norm_cfg=dict(type='BN'), loss_decode=dict(type='mmseg.CrossEntropyLoss'),
        ),
        test_cfg=dict(mode='whole'),
    )  # fmt: skip
    for i in range(4):
        cli.image(folder / 'img', f'{i}.png', i, (32, 32))
        (folder / 'ann').mkdir(exist_ok=True)
        labels = np.zeros((32, 32), np.uint8)
        labels[16:], labels[:4, :4], labels[20:, 20:] = 1, 255, 2
        cv2.imwrite(str(folder / 'ann' / f'{i}.png'), labels)
    text = cli.COMMON.format(scope='mmseg', model=model) + SEGMENTOR.format(root=str(folder))
    text += LOGGED.format(visualizer='SegLocalVisualizer', evaluator="dict(type='IoUMetric', iou_metrics=['mIoU'])")
    (folder / 'segmentor.py').write_text(text)
    return folder / 'segmentor.py'


def write_distilled(folder):
    path = cli.write_classifier(folder)
    evaluator = "dict(type='Accuracy', topk=(1,))"
    path.write_text(path.read_text() + LOGGED.format(visualizer='UniversalVisualizer', evaluator=evaluator))
    teacher = tiny.classifier(False)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        torch.save(dict(state_dict=MODELS.build(teacher).state_dict()), folder / 'teacher.pth')
    text = DISTILLED.format(teacher=teacher, weights=str(folder / 'teacher.pth'))
    (folder / 'distilled.py').write_text(text)
    return folder / 'distilled.py'


def write_detector(folder):
    path = cli.write_detector(folder)
    text = path.read_text() + LOGGED.format(
        visualizer='DetLocalVisualizer', evaluator=f"dict(type='CocoMetric', ann_file={str(folder / 'ann.json')!r})"
    )
    # heads begin with scores too low to be kept
    path.write_text(f"{text}\nmodel['bbox_head']['init_cfg'] = None\n")
    return path


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """The work dirs of two epochs of each task, of the classifier also a test; how often areas were counted."""
    found, counted, count = {}, [], IoUMetric.intersect_and_union
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MMSNN_REPORT', '1')
        patch.setattr('mmsnn.report.hook.MANY', 3)
        patch.setattr(IoUMetric, 'intersect_and_union', staticmethod(lambda *args: counted.append(1) or count(*args)))
        for name, write in dict(detector=write_detector, segmentor=write_segmentor, classifier=write_distilled).items():
            home = tmp_path_factory.mktemp(name)
            config = write(home)
            DefaultScope._instance_dict.clear()
            cli.main('train', config, '--work-dir', home / 'run', '--cfg-options', 'optim_wrapper.optimizer.lr=0.011')
            found[name] = home / 'run'
        DefaultScope._instance_dict.clear()
        cli.main('test', config, home / 'run' / 'epoch_2.pth', '--work-dir', home / 'run')
        DefaultScope._instance_dict.clear()
    found['areas'] = len(counted)
    return found


class Page(html.parser.HTMLParser):
    """What a page says: text, the numbers of its cells, its pictures, its headings."""

    def __init__(self, path):
        super().__init__()
        self.text, self.numbers, self.images, self.outside, self.open = '', [], [], [], []
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if 'data-value' in attrs:
            self.numbers.append(float(attrs['data-value']))
        if tag == 'img':
            self.images.append((attrs['alt'], attrs['src']))
        self.outside += [attrs[key] for key in ('src', 'href') if not attrs.get(key, '#').startswith(('data:', '#'))]

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize('name', ['detector', 'segmentor', 'classifier'])
def test_its_figures_are_those_of_the_log(runs, name):
    page = Page(runs[name] / 'report.html')
    rows = [json.loads(row) for path in runs[name].glob('*/vis_data/scalars.json') for row in path.open()]
    last = [row for row in rows if 'loss' in row][-1]
    validated = [row for row in rows if 'loss' not in row]
    assert len(validated) == 2 or (name == 'classifier' and validated)
    wanted = [value for key, value in last.items() if 'loss' in key]
    wanted += [row[key] for row in validated for key in row if '/' in key or key == 'mIoU']
    assert wanted and not [value for value in wanted if value not in page.numbers]


@pytest.mark.parametrize('name', ['detector', 'segmentor', 'classifier'])
def test_it_needs_no_other_file_and_has_every_part(runs, name):
    page = Page(runs[name] / 'report.html')
    assert not page.outside
    drawn = {alt for alt, _ in page.images}
    by_class = dict(detector='AP', segmentor='IoU', classifier='f1')[name]
    unit = dict(detector='boxes', segmentor='pixels', classifier='images')[name]
    assert {f'{by_class} by class', f'{unit} by class', 'loss over iterations'} <= drawn
    assert 'firing rate of every layer over training' in drawn and 'seconds an iteration over training' in drawn
    assert any(alt.startswith('best 1') for alt in drawn) and any(alt.startswith('worst 1') for alt in drawn)
    assert f'mmsnn look {runs[name].parent}' in page.text and 'finished: 2 epochs' in page.text
    assert torch.__version__ in page.text
    for _, source in page.images:
        kind, content = re.fullmatch(r'data:image/(svg\+xml|jpeg);base64,(.+)', source).groups()
        content = base64.b64decode(content)
        assert (
            content.startswith(b'<?xml')
            if kind == 'svg+xml'
            else cv2.imdecode(np.frombuffer(content, np.uint8), 1).any()
        )


def record(folder, name):
    return json.loads(max(folder.glob(f'*/report/{name}.json')).read_text())


def test_average_precision_by_class_is_that_of_the_metric(runs):
    found = record(runs['detector'], 'val')
    values = [one['AP'] for one in found['classes'] if one['AP'] is not None]
    # which mmdet rounds
    assert np.mean(values) == pytest.approx(found['metrics']['coco/bbox_mAP'], abs=6e-4)
    assert [one['boxes'] for one in found['classes']] == [4, 4, 0, 0, 0]
    # every true box is found as something, or as background
    assert [sum(row) >= 4 for row in found['confusion']][:2] == [True, True]


def test_intersection_over_union_is_that_of_the_metric(runs):
    found = record(runs['segmentor'], 'val')
    assert np.mean([one['IoU'] for one in found['classes']]) == pytest.approx(found['metrics']['mIoU'], abs=6e-3)
    # the metric counts each image, once in each of two validations, and the report takes that
    assert runs['areas'] == 4 + 4
    # 16 pixels of each image are ignored
    assert sum(one['pixels'] for one in found['classes']) == 4 * (32 * 32 - 16)


def test_the_confusion_matrix_is_the_accuracy(runs):
    found = record(runs['classifier'], 'test')
    matrix = np.array(found['confusion'])
    assert matrix.sum() == found['images'] == 8
    assert 100 * matrix.trace() / matrix.sum() == pytest.approx(found['metrics']['accuracy/top1'])


def test_labels_are_counted(runs):
    assert record(runs['detector'], 'data')['classes'] == dict(a=4, b=4, c=0, d=0, e=0)
    assert record(runs['detector'], 'data')['sides'] == [pytest.approx(840**0.5, abs=0.1)] * 8
    assert record(runs['classifier'], 'data')['classes'] == dict(a=2, b=2, c=2, d=1, e=1)
    assert record(runs['segmentor'], 'data')['classes'] == {'sky': 4 * 496, 'road': 4 * 368, '<b>': 4 * 144}


def test_weights_are_those_of_the_training(runs):
    run = read_run(runs['classifier'])
    # losses are logged with their weight, which falls from 1 to 0 in four iterations
    assert run.weights('loss_feature') == {1: 1.0, 2: 0.75, 3: 0.5, 4: 0.25}
    assert run.weights('loss_response') == {}
    assert 'linear 1, 0 at iter 0, 4' in Page(runs['classifier'] / 'report.html').text


def test_the_teacher_stands_beside_the_student(runs):
    page, run = Page(runs['classifier'] / 'report.html'), read_run(runs['classifier'])
    assert run.teacher_metrics == {'teacher/accuracy/top1': 'accuracy/top1'}
    assert run.val[2]['teacher/accuracy/top1'] in page.numbers
    pictures = record(runs['classifier'], 'test')['pictures']
    assert all('teacher: ' in picture['panels'][0]['said'] for picture in pictures)


def test_what_the_command_line_changes_is_told(runs):
    said = record(runs['detector'], 'run')
    assert said['options'] == [['optim_wrapper.optimizer.lr', '0.01', '0.011']]
    # a test is of the student alone, and the tools set more than the command line does
    assert [one['options'] for one in _records(runs['classifier'], 'run')][1] == []
    # the student is compared with the base's model: it is the same
    changed = {key for key, _, _ in next(iter(_records(runs['classifier'], 'run')))['changes']}
    assert 'model.losses.loss_feature.type' in changed and not any(key.startswith('model.student.') for key in changed)


def test_hooks_of_the_command_line_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv('MMSNN_REPORT', '1')
    config = classifier(tmp_path, "custom_hooks = [dict(type='EMAHook', momentum=0.1)]")
    train = runpy.run_path(str(cli.ROOT / 'tools/train.py'))

    def told(*more):
        args = train['parse_args']([str(config), '--work-dir', str(tmp_path / 'run'), *more])
        return options(train['prepare'](train['read_config'](args), args))

    assert told() == []
    assert told('--cfg-options', 'custom_hooks.0.momentum=0.5', 'train_dataloader.pin_memory=True') == [
        ['train_dataloader.pin_memory', 'False', 'True'],
        ['custom_hooks', "[{'type': 'EMAHook', 'momentum': 0.1}]", "[{'type': 'EMAHook', 'momentum': 0.5}]"],
    ]
    (before, after), *others = [row[1:] for row in told('--cfg-options', 'custom_hooks=[]')]
    assert 'EMAHook' in before and after == '[]' and not others


def test_what_is_imported_is_not_said_to_change_nothing(tmp_path):
    (tmp_path / 'base.py').write_text('train_cfg = dict(max_epochs=1)\n')
    text = 'from mmengine.config import read_base\nwith read_base():\n    from .base import *\n'
    (tmp_path / 'top.py').write_text(f'{text}train_cfg.update(max_epochs=9)\n')
    (tmp_path / 'same.py').write_text("_base_ = 'base.py'\n")
    said = {}
    for name in ('top', 'same'):
        path = str(tmp_path / f'{name}.py')
        records = dict(run=dict(config=path, changes=changes(Config.fromfile(path))))
        said[name] = sections.config(Run(tmp_path, records=records)).lines
    assert said['top'] == [f'{tmp_path}/top.py has no _base_ to compare with (what read_base imports is not compared).']
    assert said['same'] == [f'{tmp_path}/same.py changes nothing in its base.']


def test_commands_can_be_copied_into_a_shell(runs, tmp_path):
    folder = shutil.copytree(runs['classifier'], tmp_path / "my student's run")
    for path in folder.glob('*/report/run.json'):
        path.write_text(json.dumps(json.loads(path.read_text()) | dict(config='', finished=False)))
    typed = [shlex.split(line) for line in sections.commands(read_run(folder)).commands]
    checkpoint, config = str(folder / 'epoch_2.pth'), str(folder / 'distilled.py')
    assert typed[:2] == [
        ['mmsnn', 'train', config, '--work-dir', str(folder), '--resume'],
        ['mmsnn', 'test', config, checkpoint, '--work-dir', str(folder)],
    ]
    assert typed[3][-4:] == ['--T', '1', '2', '4'] and typed[4][-1] == f'{folder}/shown'
    assert typed[5:] == [
        ['mmsnn', 'look', config, checkpoint, 'IMAGE'],
        ['mmsnn', 'deploy', config, checkpoint, '--to', 'onnx', '--out', f'{folder}/model.onnx'],
        ['mmsnn', 'report', str(folder), 'OTHER_WORK_DIR'],
    ]


def test_what_a_nan_leaves_is_no_checkpoint(tmp_path):
    (tmp_path / 'nonfinite.pth').touch()
    assert Run(tmp_path).checkpoint is None and ' CHECKPOINT' in Run(tmp_path).command('test')
    (tmp_path / 'epoch_1.pth').touch()
    os.utime(tmp_path / 'epoch_1.pth', (1, 1))
    assert Run(tmp_path).checkpoint == tmp_path / 'epoch_1.pth'


def test_metrics_of_any_task_are_drawn(tmp_path):
    rows = [dict(T=T, EPE=0.5, PSNR=20.0 + T, energy_uj=T, ms_per_image=T) for T in (1, 2)]
    measured = dict(time_steps=dict(note='Said.', checkpoint='c.pth', rows=rows))
    drawn = {}
    for best in ('PSNR', 'auto'):
        cfg = Config(dict(default_hooks=dict(checkpoint=dict(save_best=best))))
        drawn[best] = sections.steps(Run(tmp_path, cfg=cfg, measured=measured)).charts[0]['alt']
    assert drawn == dict(PSNR='PSNR and energy (uJ) against T', auto='EPE and energy (uJ) against T')
    run = Run(tmp_path, val={step: dict(step=step, EPE=1.0 / step, loglik=-1.0) for step in (1, 2)})
    panel = sections.metrics(run)
    assert [chart['alt'] for chart in panel.charts] == ['EPE in validation']
    assert panel.tables[0]['head'] == ['iteration', 'EPE', 'loglik']
    assert panel.tables[0]['caption'] == 'Validations. A metric that never changes has no chart.'
    # what was measured once has no course, and is drawn as it is
    once = Run(tmp_path, val={1: dict(step=1, loglik=-1.0)})
    assert [chart['alt'] for chart in sections.metrics(once).charts] == ['loglik in validation']


def _records(folder, name):
    return (json.loads(path.read_text()) for path in sorted(folder.glob(f'*/report/{name}.json')))


def test_several_stand_side_by_side(runs, tmp_path, capsys):
    before = (runs['detector'] / 'report.html').read_bytes()
    cli.main('report', runs['detector'], runs['classifier'])
    assert (runs['detector'] / 'report.html').read_bytes() == before
    (runs['detector'] / 'comparison.html').unlink()
    cli.main('report', runs['detector'], runs['classifier'], '--out', tmp_path / 'both.html')
    assert f'saved {tmp_path / "both.html"}' in capsys.readouterr().out
    page = Page(tmp_path / 'both.html')
    # both are called run
    assert all(f'{runs[name].parent.name}/run' in page.text for name in ('detector', 'classifier'))
    assert 'loss of all runs' in {alt for alt, _ in page.images}


def test_text_from_files_stays_text(runs):
    assert '<b>' in Page(runs['segmentor'] / 'report.html').text


def test_a_run_that_broke_off_says_so(runs, tmp_path):
    folder = shutil.copytree(runs['detector'], tmp_path / 'run')
    shutil.rmtree(next(folder.glob('*/report')))
    log = next(folder.glob('*/vis_data/scalars.json'))
    rows = log.read_text().splitlines(keepends=True)
    # two rows, and the beginning of a third
    log.write_text(''.join(rows[:2]) + rows[2][:30])
    page = Page(write_report([folder]))
    assert 'not finished: the log ends at iteration 2, in epoch 1 of 2' in page.text
    assert f'mmsnn train {folder / "detector.py"} --work-dir {folder} --resume' in page.text
    assert 'lines left out that are not whole: 1' in page.text
    assert 'No validation was logged' in page.text and 'mmsnn check' in page.text


def test_metrics_of_a_sweep_are_not_those_of_the_test(runs, tmp_path):
    folder = shutil.copytree(runs['classifier'], tmp_path / 'run')
    tested = record(folder, 'test')['metrics']['accuracy/top1']
    sweep = folder / '29991231_000000'
    sweep.mkdir()
    (sweep / f'{sweep.name}.json').write_text(json.dumps({'accuracy/top1': 77.25, 'time': 1}))
    row = {'T': 1, 'accuracy/top1': 77.25, 'energy_uj': 2.5}
    rows = [row, {**row, 'T': 2, 'accuracy/top1': tested}]
    (folder / 'time_steps.json').write_text(json.dumps(dict(note='Said.', checkpoint='epoch_2.pth', rows=rows)))
    assert read_run(folder).test['accuracy/top1'] == tested
    page = Page(write_report([folder]))
    assert 'accuracy/top1 and energy (uJ) against T' in {alt for alt, _ in page.images} and 77.25 in page.numbers
    # of folders of other tools nothing is known but the log
    for path in folder.glob('*/report/test.json'):
        path.unlink()
    assert read_run(folder).test == {'accuracy/top1': 77.25}
    assert 'of which checkpoint and T was not recorded' in Page(write_report([folder])).text


def test_folders_without_a_run_are_refused(runs, tmp_path):
    with pytest.raises(FileNotFoundError, match='nothing: nothing that a training or a test writes'):
        (tmp_path / 'nothing').mkdir()
        write_report([tmp_path / 'nothing'])
    with pytest.raises(FileNotFoundError, match=f'the runs are below it: {runs["detector"]}'):
        write_report([runs['detector'].parent])
    (tmp_path / '20260101_000000').mkdir()
    with pytest.raises(FileNotFoundError, match='ended before the first line'):
        write_report([tmp_path])
    with pytest.raises(SystemExit, match='there is no such folder'):
        cli.main('report', tmp_path / 'missing')


def test_an_error_in_a_hook_is_a_warning(runs, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv('MMSNN_REPORT', '1')
    monkeypatch.setattr('mmsnn.report.data.describe', lambda dataset: 1 / 0)
    monkeypatch.setattr('mmsnn.report.page.render', lambda runs: 1 / 0)
    monkeypatch.setattr('mmsnn.report.evaluation.summarise', lambda *args: 1 / 0)
    config = runs['segmentor'].parent / 'segmentor.py'
    cli.main('train', config, '--work-dir', tmp_path / 'run', '--cfg-options', 'train_cfg.max_epochs=1')
    assert (tmp_path / 'run' / 'epoch_1.pth').is_file()
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    for what in ('the statistics of the labels', 'the figures of the val set'):
        assert f'report.html will lack {what}: ZeroDivisionError' in log
    assert 'no report.html was written: ZeroDivisionError' in log


def classifier(folder, extra: str):
    """A config of a classifier that is validated, with more in it."""
    path = cli.write_classifier(folder)
    evaluator = "dict(type='Accuracy', topk=(1,), collect_device='gpu')"
    text = LOGGED.format(visualizer='UniversalVisualizer', evaluator=evaluator)
    path.write_text(path.read_text() + text + extra)
    return path


def test_pictures_are_of_the_weights_that_were_scored(tmp_path, monkeypatch):
    monkeypatch.setenv('MMSNN_REPORT', '1')
    seen = {}

    def weight(model):
        return float(model.head.fc.weight.detach().double().sum())

    def after_val_iter(self, runner, *args, collect=ReportHook.after_val_iter, **kwargs):
        seen['scored'] = weight(runner.model)
        return collect(self, runner, *args, **kwargs)

    def draw(model, *args):
        seen['drawn'] = weight(model)
        return []

    monkeypatch.setattr(ReportHook, 'after_val_iter', after_val_iter)
    monkeypatch.setattr('mmsnn.report.pictures.draw', draw)
    ema = "custom_hooks = [dict(type='EMAHook', momentum=0.5)]\noptim_wrapper['optimizer']['lr'] = 1.0\n"
    config = classifier(tmp_path, ema + "train_cfg['max_epochs'] = 1")
    cli.main('train', config, '--work-dir', tmp_path / 'run')
    state = load_file(tmp_path / 'run/epoch_1.pth')
    # CheckpointHook puts the average in the place of the weights
    trained = float(state['ema_state_dict']['module.head.fc.weight'].double().sum())
    assert seen['drawn'] == seen['scored'] != trained


def test_a_training_that_is_stopped_early_has_ended(tmp_path, monkeypatch):
    monkeypatch.setenv('MMSNN_REPORT', '1')
    stop = "custom_hooks = [dict(type='EarlyStoppingHook', monitor='accuracy/top1', patience=0, min_delta=1000)]\n"
    config = classifier(tmp_path, stop + "train_cfg['max_epochs'] = 6")
    cli.main('train', config, '--work-dir', tmp_path / 'run')
    page = Page(tmp_path / 'run/report.html')
    assert 'stopped early in epoch 2 of 6, after 4 iterations' in page.text
    assert '--resume' not in page.text


def test_figures_that_are_not_collected_end_no_training(tmp_path, monkeypatch):
    monkeypatch.setenv('MMSNN_REPORT', '1')
    monkeypatch.setattr('mmsnn.report.hook.collect_results', lambda *args, **kwargs: 1 / 0)
    config = classifier(tmp_path, "train_cfg['max_epochs'] = 1")
    cli.main('train', config, '--work-dir', tmp_path / 'run')
    assert (tmp_path / 'run/epoch_1.pth').is_file()
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert 'report.html will lack the figures of the val set: ZeroDivisionError' in log


def test_two_processes_collect_without_files(tmp_path):
    config = classifier(tmp_path, "train_cfg['max_epochs'] = 1")
    ranks.run(ranks.report, tmp_path / 'ranks', str(config))
    assert sum(map(sum, record(tmp_path / 'ranks/run', 'val')['confusion'])) == 8
    assert not list((tmp_path / 'ranks/here').iterdir())


def test_an_unreadable_part_leaves_the_others(runs, tmp_path):
    folder = shutil.copytree(runs['detector'], tmp_path / 'run')
    next(folder.glob('*/report/val.json')).write_text('{"classes": 3}')
    next(folder.glob('*/report/data.json')).write_text('no json')
    page = Page(write_report([folder]))
    assert 'This part cannot be made of the files' in page.text and 'data.json is no JSON' in page.text
    assert 'loss over iterations' in {alt for alt, _ in page.images}


def test_files_of_other_origin_leave_the_rest(runs, tmp_path):
    folder = shutil.copytree(runs['classifier'], tmp_path / 'run')
    for name in ('run', 'data', 'val', 'test'):
        for path in folder.glob(f'*/report/{name}.json'):
            path.write_text('{}')
    for path in folder.glob('*/vis_data/*.json'):
        path.write_text(path.read_text() + '5\n{"loss": 1}\n{"step": 3}\n{"step": [3]}\n')
    page = Page(write_report([folder]))
    assert 'lines left out that are not whole: 3' in page.text
    assert 'loss over iterations' in {alt for alt, _ in page.images}


def test_the_overview_may_be_lacking(runs, monkeypatch):
    monkeypatch.setattr('mmsnn.report.results._median_time', lambda run: {}['time'])
    text = render(dict(run=read_run(runs['detector'])))
    assert 'This part cannot be made of the files: KeyError' in text and 'loss over iterations' in text


def test_what_cannot_be_written_is_said(runs, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    with pytest.raises(SystemExit, match='file'):
        cli.main('report', runs['detector'], '--out', tmp_path / 'file' / 'below.html')
    monkeypatch.setitem(sys.modules, 'jinja2', None)
    with pytest.raises(SystemExit, match=r"a report needs jinja2: pip install 'mmsnn\[report\]'"):
        cli.main('report', runs['detector'], '--out', tmp_path / 'page.html')


def test_no_report_where_none_is_wanted(runs, monkeypatch):
    from mmsnn.report import add_hook

    monkeypatch.setenv('MMSNN_REPORT', '0')
    assert not add_hook(Config()).get('custom_hooks')
    monkeypatch.setenv('MMSNN_REPORT', '1')
    cfg = add_hook(Config(dict(custom_hooks=[dict(type=ReportHook)])))
    assert cfg.custom_hooks == [dict(type=ReportHook)]


def test_best_and_worst_are_not_the_same():
    assert extremes(dict(enumerate([0.1, 0.9, 0.5, 0.7])), 3) == ([1, 3], [0, 2])
    assert extremes(dict(enumerate([0.1, 0.9, 0.5, 0.7, 0.3, 0.2])), 2) == ([1, 3], [0, 5])
    assert extremes({7: 0.4}, 3) == ([7], [])
    assert extremes({7: 0.4, 3: 0.9}, 1) == ([3], [7])


def test_images_are_judged_by_the_detections_that_are_drawn():
    from mmsnn.report.evaluation import _image_score

    boxes = np.array([[0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]], dtype=np.float32)
    truth = dict(boxes=boxes[:2], labels=np.array([0, 0]), ignored=np.array([False, False]))
    found = dict(boxes=boxes, labels=np.array([0, 0, 1]), scores=np.array([0.9, 0.1, 0.1], dtype=np.float32))
    # the second is found with a score too low to be drawn
    assert _image_score(found, truth) == pytest.approx(0.5)
    # of two classes one is not there at all
    assert _image_score(dict(found, scores=np.float32([0.9, 0.8, 0.7])), truth) == pytest.approx(0.5)
    assert _image_score(dict(found, scores=np.float32([0.9, 0.8, 0.1])), truth) == pytest.approx(1)
    empty = dict(boxes=boxes[:0], labels=truth['labels'][:0], ignored=truth['ignored'][:0])
    assert _image_score(dict(found, scores=found['scores'] * 0), empty) == 1
    assert _image_score(found, empty) == 0


def test_many_detections_are_announced(runs):
    logs = {
        name: ''.join(path.read_text() for path in runs[name].glob('*/*.log')) for name in ('detector', 'segmentor')
    }
    said = 'the report counts detections by class in 4 images, which takes a while; mmsnn.ReportHook(tables=False)'
    assert said in logs['detector'] and 'takes a while' not in logs['segmentor']


def test_of_many_images_some_are_judged(tmp_path, monkeypatch, capsys):
    """The benchmark's detections, of which the report tells how many were looked at."""
    benchmark = runpy.run_path(str(cli.ROOT / 'tools/benchmarks/report_cost.py'))
    judged = []
    monkeypatch.setattr('mmsnn.report.evaluation.JUDGED', 3)
    monkeypatch.setattr('mmsnn.report.evaluation._image_score', lambda item, truth: judged.append(item) or 0.5)
    benchmark['main'](['--images', '9', '--detections', '5', '--classes', '4'])
    # before it measures, it imports with two
    assert len(judged) == 2 + 3 and re.search(r'9 images .* s .* MiB kept', capsys.readouterr().out)
    said = dict(images=9, judged=3, T=1, kind='detection', classes=[dict(name='a', boxes=1, AP=0.5)])
    panel = sections.classes(Run(tmp_path, records=dict(val=said)))
    assert 'The best and the worst are those of 3 images, evenly spread.' in panel.lines
    panel = sections.classes(Run(tmp_path, records=dict(val=said | dict(judged=9))))
    assert not any('evenly spread' in line for line in panel.lines)


def test_boxes_that_are_ignored_are_not_missed():
    from mmsnn.report.evaluation import _detection_confusion

    boxes = np.array([[0, 0, 10, 10], [20, 20, 90, 90]], dtype=np.float32)
    truth = dict(boxes=boxes, labels=np.array([0, 0]), ignored=np.array([False, True]))
    found = dict(boxes=boxes[:1], labels=np.array([0]), scores=np.array([0.9], dtype=np.float32))
    assert _detection_confusion([found], [truth], 1) == [[1, 0], [0, 0]]
    # an image of a crowd alone
    crowd = dict(truth, ignored=np.array([True, True]))
    assert _detection_confusion([found], [crowd], 1) == [[0, 0], [1, 0]]


def test_changes_are_told_leaf_by_leaf():
    before = dict(model=dict(type='A', depth=18, norm=dict(type='BN')), unread=1)
    after = dict(model=dict(type='A', depth=34, norm=None), optim_wrapper=dict(lr=0.1), unread=2)
    assert compare(before, after) == [
        ['model.depth', '18', '34'],
        ['model.norm', '', 'None'],
        ['optim_wrapper.lr', '', '0.1'],
        ['model.norm.type', 'BN', ''],
    ]


def test_many_classes_are_shortened():
    values = {str(i): float(i) for i in range(200)}
    assert list(charts.shorten(values)) == [str(i) for i in (*range(199, 181, -1), *range(17, -1, -1))]


BROWSER = next(
    (found for name in ('chromium', 'chromium-browser', 'google-chrome') if (found := shutil.which(name))), None
)
PROBE = """<script>
addEventListener('error', event => document.title += ' ERROR ' + event.message);
addEventListener('load', () => {
  const images = [...document.images].filter(image => !image.complete || !image.naturalWidth).length;
  const page = document.documentElement;
  document.title = `width ${page.scrollWidth} of ${page.clientWidth}, broken images ${images}`;
});
</script>"""


@pytest.mark.skipif(BROWSER is None, reason='no chromium here that could show the page')
@pytest.mark.parametrize('width', [400, 1280])
def test_a_browser_shows_it_without_scrolling_sideways(runs, tmp_path, width):
    # windows of a headless browser are at least 500 wide, frames are not
    path = write_report([runs['classifier'], runs['detector']], tmp_path / 'page.html')
    path.write_text(path.read_text().replace('</head>', PROBE + '</head>'))
    frame = f'<iframe src="page.html" style="width:{width}px; height:900px; border:0"></iframe>'
    report = "<script>onload = () => document.title = document.querySelector('iframe').contentDocument.title</script>"
    (tmp_path / 'frame.html').write_text(f'<!doctype html><html><body>{frame}{report}</body></html>')
    done = subprocess.run(
        [
            BROWSER, '--headless', '--no-sandbox', '--disable-gpu', '--allow-file-access-from-files',
            '--enable-logging=stderr', f'--user-data-dir={tmp_path / "profile"}', '--window-size=1400,1000',
            '--virtual-time-budget=10000', '--dump-dom', (tmp_path / 'frame.html').as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    found = re.search(r'<title>width (\d+) of (\d+), broken images 0</title>', done.stdout)
    assert found and found[1] == found[2], done.stdout[-2000:]
    # a bar for scrolling down may take some
    assert width - 20 <= int(found[1]) <= width
    assert 'CONSOLE' not in done.stderr
