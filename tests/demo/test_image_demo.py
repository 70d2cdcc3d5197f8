import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

ROOT = Path(__file__).resolve().parents[2]
BACKBONE = dict(type='mmsnn.SEWResNet', depth=18, base_channels=4, T=2)
READ = dict(type='LoadImageFromFile')
STUDENTS = dict(
    mmseg=dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', mean=[0.0] * 3, std=[255.0] * 3),
        backbone=BACKBONE,
        decode_head=dict(type='FCNHead', in_channels=32, channels=8, num_convs=1, num_classes=3, in_index=3),
        test_cfg=dict(mode='whole'),
    ),
    mmpretrain=dict(
        type='ImageClassifier',
        data_preprocessor=dict(mean=[0.0] * 3, std=[255.0] * 3),
        backbone=dict(BACKBONE, out_indices=(3,)),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=32),
    ),
)
SIZE = 64
PIPELINES = dict(
    mmseg=[READ, dict(type='Resize', scale=(SIZE, SIZE)), dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
    mmpretrain=[READ, dict(type='Resize', scale=(SIZE, SIZE)), dict(type='PackInputs')],
)


@pytest.fixture(scope='module')
def demo():
    spec = importlib.util.spec_from_file_location('image_demo', ROOT / 'demo/image_demo.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'noise.png'
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (80, 96, 3), dtype=np.uint8))
    return path


def detector(tmp_path, name, **backbone):
    cfg = Config.fromfile(ROOT / f'configs/{name}_digits.py')
    student = cfg.model.get('student', cfg.model)
    student.backbone.update(base_channels=4, **backbone)
    student.neck.in_channels = [4, 8, 16, 32]
    return write(tmp_path, cfg)


def write(tmp_path, cfg):
    """Config file and checkpoint of random weights."""
    path = tmp_path / 'config.py'
    cfg.dump(path)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model.get('student', cfg.model))
    checkpoint = tmp_path / 'weights.pth'
    meta = dict(dataset_meta=dict(classes=tuple('abcdefghij')))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), checkpoint)
    return str(path), str(checkpoint)


def run(demo, image, config, checkpoint, *options):
    arguments = [str(image), config, checkpoint, '--out-dir', str(image.parent / 'out'), '--device', 'cpu', *options]
    picture = cv2.imread(str(demo.main(demo.parse_args(arguments))))
    assert picture.std() > 10
    return picture


@pytest.mark.parametrize('name', ['spiking/retinanet_sew18', 'sakd/retinanet_sew18'])
def test_detector_distilled_or_not(demo, image, tmp_path, name):
    picture = run(demo, image, *detector(tmp_path, name), '--score-thr', '0.0')
    assert picture.shape[1] > 1.5 * picture.shape[0]
    assert not np.array_equal(picture, run(demo, image, *detector(tmp_path, name), '--T', '2'))


def test_ann_has_no_chart(demo, image, tmp_path):
    picture = run(demo, image, *detector(tmp_path, 'ann/retinanet_r18'))
    assert picture.shape[1] < 1.5 * picture.shape[0]


@pytest.mark.parametrize('scope', STUDENTS)
def test_other_tasks(demo, image, tmp_path, scope):
    test = dict(dataset=dict(type='BaseDataset', pipeline=PIPELINES[scope]))
    cfg = Config(dict(model=STUDENTS[scope], default_scope=scope, test_dataloader=test))
    files = write(tmp_path, cfg)
    assert np.array_equal(run(demo, image, *files), run(demo, image, *files, '--engine', 'event'))


def test_types_may_be_classes_and_data_sets_wrapped(demo, image):
    init_default_scope('mmpretrain')
    pipeline = [dict(type=LoadImageFromFile), dict(type=LoadAnnotations), dict(type='PackInputs')]
    dataset = dict(
        type='RepeatDataset', times=1, dataset=dict(type='ConcatDataset', datasets=[dict(pipeline=pipeline)])
    )
    batch = demo.load_batch(Config(dict(test_dataloader=dict(dataset=dataset))), image)
    assert batch['inputs'][0].shape[0] == 3


def test_checkpoint_that_could_run_code_is_refused(demo, image, tmp_path):
    config, checkpoint = detector(tmp_path, 'spiking/retinanet_sew18')
    torch.save(dict(state_dict={}, meta=dict(harm=Path('.'))), checkpoint)
    with pytest.raises(ValueError, match='run code'):
        run(demo, image, config, checkpoint)


def test_checkpoint_of_another_model_is_refused(demo, image, tmp_path):
    config, checkpoint = detector(tmp_path, 'spiking/retinanet_sew18')
    torch.save(dict(state_dict={'backbone.conv1.weight': torch.zeros(1)}), checkpoint)
    with pytest.raises(ValueError, match='backbone.conv1.weight'):
        run(demo, image, config, checkpoint)


def test_missing_file_is_named(demo, image, capsys):
    with pytest.raises(SystemExit):
        demo.parse_args([str(image), 'nowhere.py', 'nothing.pth'])
    assert "'nowhere.py'" in capsys.readouterr().err
