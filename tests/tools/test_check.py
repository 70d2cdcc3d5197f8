import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.optim import AmpOptimWrapper

from mmsnn.engine.amp import CPUAmpOptimWrapper
from mmsnn.engine.checks import check_amp, check_saving

pytest.importorskip('mmpretrain', reason='the smallest task that trains is a classification')
ROOT = Path(__file__).parents[2]

CONFIG = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmsnn'])
student = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmsnn.SEWResNet', depth=18, T=2, stem='cifar', neuron=dict(type='LIF', v_threshold=0.2),
        base_channels=4, num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=8, loss=dict(type='CrossEntropyLoss')))
model = student
data_preprocessor = dict(num_classes=2, mean=[127.5] * 3, std=[30] * 3, to_rgb=True)
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=4, num_workers=1, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='CustomDataset', data_root={root!r}, data_prefix='train', pipeline=pipeline))
val_dataloader = dict(
    batch_size=3, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CustomDataset', data_root={root!r}, data_prefix='val', pipeline=pipeline))
val_evaluator = dict(type='Accuracy', topk=(1,))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
train_cfg = dict(by_epoch=True, max_epochs=1)
val_cfg = dict()
"""


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """A folder with images of two classes and configs: a plain one, and one with a teacher."""
    home = tmp_path_factory.mktemp('home')
    for split in ('train', 'val'):
        for name in ('cat', 'dog'):
            (home / 'data' / split / name).mkdir(parents=True)
            for i in range(3):
                cv2.imwrite(str(home / 'data' / split / name / f'{i}.png'), np.full((16, 16, 3), 80 * i, np.uint8))
    (home / 'plain.py').write_text(CONFIG.format(root=str(home / 'data')))
    (home / 'distilled.py').write_text(
        "_base_ = 'plain.py'\n"
        "model = dict(_delete_=True, type='mmsnn.Distiller', student=_base_.model, teacher=_base_.student,"
        " losses=dict(loss_logits=dict(type='LogitKL', student='head.fc', teacher='head.fc')))"
    )
    return home


def check(capsys, *arguments):
    """Exit code and lines of tools/check.py."""
    code = runpy.run_path(str(ROOT / 'tools' / 'check.py'))['main']([str(one) for one in arguments])
    return code, capsys.readouterr().out.splitlines()


def line(lines, *words):
    """The only line with all these words."""
    found = [one for one in lines if all(word in one for word in words)]
    assert len(found) == 1, '\n'.join(lines)
    return found[0]


def test_a_config_without_a_model(home, capsys):
    (home / 'none.py').write_text('train_cfg = dict(max_epochs=1)')
    with pytest.raises(ValueError, match='none.py has no model: is it a base of other configs'):
        check(capsys, home / 'none.py')


def test_a_loss_that_reads_the_progress(home, capsys):
    """It gets what the training's hook gives it before the first iteration."""
    text = (home / 'distilled.py').read_text()
    term = "dict(type='TKS', student='backbone.layer2|neck|head.fc')"
    (home / 'tks.py').write_text(text.replace("dict(type='LogitKL', student='head.fc', teacher='head.fc')", term))
    code, lines = check(capsys, home / 'tks.py')
    assert not code and line(lines, '0 errors'), lines


def test_the_whole_of_a_message_is_shown(home, capsys):
    (home / 'short.py').write_text("_base_ = 'distilled.py'\nmodel = dict(short_T=4)")
    code, lines = check(capsys, home / 'short.py')
    assert code and line(lines, 'error', 'model.short_T: 4 must be a number of time steps below')


def test_a_teacher_that_inherits_what_it_does_not_take(home, capsys):
    (home / 'ann.py').write_text("_base_ = 'plain.py'\nmodel = dict(backbone=dict(type='ResNet', depth=18))")
    (home / 'taught.py').write_text(f"_base_ = 'distilled.py'\nmodel = dict(teacher={str(home / 'ann.py')!r})")
    _, lines = check(capsys, home / 'taught.py')
    said = line(lines, 'error', 'ann.py', 'has no such key')
    assert 'model.teacher: ' in said and 'model.backbone.' in said and 'student' not in said


def test_a_good_config(home, capsys):
    before = sorted(home.rglob('*'))
    code, lines = check(capsys, home / 'plain.py')
    assert code == 0 and lines[-1] == '0 errors, 0 warnings'
    line(lines, 'ok', 'train_dataloader.dataset.data_prefix', '2 classes by folder')
    line(lines, 'ok', 'model.head.num_classes: 2 classes')
    line(lines, 'ok', 'train_dataloader.dataset: 6 images, batches of 4')
    line(lines, 'ok', 'one step with', 'loss')
    line(lines, 'ok', 'every layer of neurons fires: ')
    line(lines, 'ok', 'one prediction')
    line(lines, 'ok', 'train_dataloader.batch_size: ', 'with 4 images')
    # nothing is written
    assert sorted(home.rglob('*')) == before and not Path('work_dirs/plain').exists()


def test_all_that_is_wrong_at_once(home, capsys):
    changes = [
        'val_evaluator.topk=(1,5)',
        'model.head.num_classes=3',
        'val_dataloader.dataset.data_prefix=gone',
        'train_dataloader.num_workers=999',
        'optim_wrapper.optimizer.type=Gone',
    ]
    code, lines = check(capsys, home / 'plain.py', '--cfg-options', *changes)
    assert code == 1
    line(lines, 'error', 'val_evaluator.topk')
    line(lines, 'error', 'model.head.num_classes: 3')
    line(lines, 'error', 'val_dataloader.dataset.data_prefix', 'gone')
    line(lines, 'warning', 'train_dataloader.num_workers')
    line(lines, 'error', 'optim_wrapper.optimizer.type: ', 'Gone')
    assert lines[-1] == '4 errors, 1 warning'


def test_what_building_and_running_raise_is_named(home, capsys):
    code, lines = check(capsys, home / 'plain.py', '--cfg-options', 'model.backbone.type=Gone')
    assert code == 1 and 'Gone' in line(lines, 'error', 'model.backbone.type: ')
    # the head has another width than the neck
    code, lines = check(capsys, home / 'plain.py', '--cfg-options', 'model.head.in_channels=7')
    assert code == 1 and 'RuntimeError' in line(lines, 'error', 'model: ')
    code, lines = check(capsys, home / 'plain.py', '--cfg-options', 'train_dataloader.dataset.pipeline.0.type=Gone')
    assert code == 1
    line(lines, 'error', 'train_dataloader.dataset.pipeline.0.type: ', 'Gone')
    line(lines, 'ok', 'one prediction')


def test_what_is_wrong_with_the_test_alone(home, capsys):
    """It would show after the training."""
    test = '\ntest_cfg = dict()\ntest_dataloader = {**val_dataloader}\ntest_evaluator = {**val_evaluator}\n'
    (home / 'tested.py').write_text((home / 'plain.py').read_text() + test)
    assert check(capsys, home / 'tested.py')[0] == 0
    code, lines = check(capsys, home / 'tested.py', '--cfg-options', 'test_evaluator.topkk=1')
    assert code == 1 and 'did you mean topk?' in line(lines, 'error', 'test_evaluator.topkk: ')
    code, lines = check(capsys, home / 'tested.py', '--cfg-options', 'test_dataloader.dataset.data_rot=x')
    assert code == 1 and 'did you mean data_root?' in line(lines, 'error', 'test_dataloader.dataset.data_rot: ')


def test_silent_neurons_are_named(home, capsys):
    code, lines = check(capsys, home / 'plain.py', '--cfg-options', 'model.backbone.neuron.v_threshold=500.0')
    said = line(lines, 'warning', 'neuron layers are silent')
    assert code == 0 and 'backbone.layer1.0.neuron1' in said and 'lower their v_threshold' in said.lower()


def test_checkpoints(home, capsys, tmp_path):
    state = {'backbone.other.weight': torch.zeros(3, 3)}
    torch.save(dict(state_dict=state), tmp_path / 'other.pth')
    code, lines = check(capsys, home / 'plain.py', '--cfg-options', f'load_from={tmp_path / "other.pth"}')
    assert code == 1 and 'other.pth' in line(lines, 'error', 'load_from')


def test_a_distillation(home, capsys):
    code, lines = check(capsys, home / 'distilled.py')
    assert code == 0
    line(lines, 'warning', 'model.teacher_checkpoint', 'teaches noise')
    line(lines, 'ok', 'model.student.head.num_classes')
    line(lines, 'ok', 'one step with', 'loss_logits')
    missing = 'model.teacher_checkpoint=gone.pth'
    code, lines = check(capsys, home / 'distilled.py', '--cfg-options', missing)
    assert code == 1 and lines[-1].startswith('1 error,')
    line(lines, 'error', 'model.teacher_checkpoint', 'gone.pth')
    # the rest is tried all the same
    line(lines, 'ok', 'one step with', 'loss_logits')


def test_a_detection_set_without_a_box_of_its_classes(tmp_path, capsys):
    """mmdet leaves out objects of other names without a word."""
    for folder in ('Annotations', 'JPEGImages'):
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / 'JPEGImages' / 'a.jpg'), np.zeros((32, 32, 3), np.uint8))
    box = '<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>'
    (tmp_path / 'Annotations' / 'a.xml').write_text(f'<annotation><object><name>cat</name>{box}</object></annotation>')
    (tmp_path / 'list.txt').write_text('a')
    (tmp_path / 'voc.py').write_text(
        "default_scope = 'mmdet'\n"
        "model = dict(type='Gone')\n"
        "pipeline = [dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]\n"
        "train_dataloader = dict(batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict("
        f"type='XMLDataset', data_root={str(tmp_path)!r}, ann_file='list.txt', data_prefix=dict(sub_data_root=''),"
        " metainfo=dict(classes=('cta',)), pipeline=pipeline))\n"
    )
    code, lines = check(capsys, tmp_path / 'voc.py')
    assert code == 1
    line(lines, 'error', 'train_dataloader.dataset: none of 1 image')
    _, lines = check(capsys, tmp_path / 'voc.py', '--cfg-options', "train_dataloader.dataset.metainfo.classes=('cat',)")
    assert not any('none of 1 image' in one for one in lines)


@pytest.mark.skipif(torch.cuda.is_available(), reason='mixed precision is refused where there is no GPU')
def test_every_file(home, capsys, tmp_path):
    """Damage in an image that the first batch does not have shows with --all alone."""
    data = tmp_path / 'data'
    shutil.copytree(home / 'data', data)
    (tmp_path / 'plain.py').write_text(CONFIG.format(root=str(data)))
    code, lines = check(capsys, tmp_path / 'plain.py', '--quick', '--all')
    assert code == 0
    line(
        lines,
        'ok',
        'train_dataloader.dataset, val_dataloader.dataset: ',
        '6 samples can all be read (LoadImageFromFile)',
    )
    whole = (data / 'val' / 'dog' / '0.png').read_bytes()
    (data / 'val' / 'dog' / '2.png').write_bytes(whole[: len(whole) // 2])
    (data / 'train' / 'cat' / '2.png').write_bytes(b'')
    assert check(capsys, tmp_path / 'plain.py', '--quick')[0] == 0
    code, lines = check(capsys, tmp_path / 'plain.py', '--quick', '--all')
    assert code == 1
    line(lines, 'error', 'val_dataloader.dataset: 1 of 6 samples cannot be read')
    line(lines, 'cat/2.png: it is empty')
    line(lines, 'dog/2.png: ', 'damaged')
    # training replaces up to a hundredth by other samples
    for i in range(3, 150):
        shutil.copy(data / 'train' / 'dog' / '0.png', data / 'train' / 'dog' / f'{i}.png')
    _, lines = check(capsys, tmp_path / 'plain.py', '--quick', '--all')
    line(lines, 'warning', 'train_dataloader.dataset: 1 of 153 samples cannot be read')


def test_mixed_precision_needs_a_gpu(home, capsys):
    code, lines = check(capsys, home / 'plain.py', '--cfg-options', 'optim_wrapper.type=AmpOptimWrapper')
    assert code == 1
    line(lines, 'error', 'optim_wrapper.type', 'needs a GPU')
    line(lines, 'ok', 'one step with')


@pytest.mark.skipif(torch.cuda.is_available(), reason='each is the right one on another device')
def test_precision_named_by_a_class():
    wrong, right = (str([*check_amp(dict(optim_wrapper=dict(type=k)))]) for k in (AmpOptimWrapper, CPUAmpOptimWrapper))
    assert 'needs a GPU' in wrong and right == '[]'


@pytest.mark.parametrize(
    'text',
    [
        "load_from = 'mmsnn://no_such'",
        "model = dict(init_cfg=dict(type='Pretrained', checkpoint='mmsnn://no_such'))",
    ],
)
def test_weights_that_do_not_come_with_mmsnn(home, capsys, text):
    """They are no download that could be left for later."""
    (home / 'weights.py').write_text(f"_base_ = 'plain.py'\n{text}\n")
    code, lines = check(capsys, home / 'weights.py')
    assert code == 1
    line(lines, 'error', 'mmsnn://no_such: no such weights come with mmsnn, but retinanet_r18_digits')


def test_the_command_line(home, tmp_path):
    """One line says what mmdet would do in silence, and the exit code tells a script."""
    content = dict(
        images=[dict(id=1, file_name='0.png', width=16, height=16)],
        annotations=[dict(id=1, image_id=1, category_id=1, bbox=[1, 1, 8, 8], area=64, iscrowd=0)],
        categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
    )
    (tmp_path / 'ann.json').write_text(json.dumps(content))
    (tmp_path / 'detector.py').write_text(
        "default_scope = 'mmdet'\n"
        "model = dict(type='RetinaNet', bbox_head=dict(type='RetinaHead', num_classes=80))\n"
        "train_dataloader = dict(dataset=dict(type='RepeatDataset', times=2, dataset=dict(type='CocoDataset',"
        " ann_file='ann.json', data_prefix=dict(img=''), metainfo=dict(classes=('dog', 'cat')))))\n"
    )
    done = subprocess.run(
        [sys.executable, '-m', 'mmsnn', 'check', 'detector.py', '--quick'],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(ROOT)}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert "'cat' would be called 'dog'" in line(lines, 'train_dataloader.dataset.dataset.metainfo.classes')
    line(lines, 'model.bbox_head.num_classes: 80', 'Write num_classes=2')
    assert lines[-1] == '2 errors, 0 warnings'


@pytest.mark.parametrize(
    'loop, hooks, said',
    [
        (dict(by_epoch=False, max_iters=9), {}, True),
        (dict(type='IterBasedTrainLoop', max_iters=9), dict(checkpoint=dict(type='CheckpointHook', interval=3)), True),
        (dict(type='mmsnn.IterBasedTrainLoop'), dict(checkpoint=dict(type='mmsnn.SafeCheckpointHook')), True),
        (dict(type='IterBasedTrainLoop'), dict(checkpoint=dict(type='CheckpointHook', by_epoch=False)), False),
        (dict(type='IterBasedTrainLoop'), dict(checkpoint=None), False),
        (dict(by_epoch=True, max_epochs=3), {}, False),
        (dict(type='EpochBasedTrainLoop'), dict(checkpoint=dict(type='CheckpointHook')), False),
    ],
)
def test_checkpoints_that_wait_for_an_epoch(loop, hooks, said):
    """A loop by iterations has no end of an epoch, so that nothing would be saved before the end of the training."""
    found = [*check_saving(dict(train_cfg=loop, default_hooks=hooks))]
    assert [one.level for one in found] == ['warning'] * said
    assert all(one.key == 'default_hooks.checkpoint.by_epoch' for one in found)
