"""The libraries' own functions on mmsnn's configs: a distillation config means its student."""

import os
import subprocess
import sys

import cli
import pytest
from mmengine.config import Config
from mmengine.hub import get_model
from mmengine.registry import DefaultScope

from mmsnn import building, compat, shipped

DETECTOR = 'mmsnn::sakd/retinanet_sew18_bccd.py'
SEGMENTOR = 'mmsnn::sakd/fcn_sew18_camvid.py'
CLASSIFIER = 'mmsnn::sakd/spiking_r18_cifar10_small.py'


@pytest.fixture
def file(tmp_path):
    """A distillation config in a folder of the user's."""
    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = '{DETECTOR}'\nmodel = dict(student=dict(backbone=dict(T=3)))")
    return str(path)


def check(model, kind, T=4):
    assert type(model).__name__ == kind and model.backbone.T == T


class TestDistillationConfig:
    def test_init_detector(self, file):
        from mmdet.apis import init_detector

        check(init_detector(file, device='cpu'), 'RetinaNet', T=3)
        check(init_detector(DETECTOR, device='cpu'), 'RetinaNet')
        cfg = Config.fromfile(file)
        check(init_detector(config=cfg, device='cpu'), 'RetinaNet', T=3)
        assert cfg.model.type == 'mmsnn.Distiller' and cfg.model.student.backbone.T == 3

    def test_det_inferencer(self, file):
        from mmdet.apis import DetInferencer

        for config in (file, DETECTOR):
            inferencer = DetInferencer(config, device='cpu')
            check(inferencer.model, 'RetinaNet', T=3 if config == file else 4)
            assert inferencer.cfg.model.type == 'RetinaNet'

    def test_init_model_and_seg_inferencer(self):
        from mmseg.apis import MMSegInferencer, init_model

        check(init_model(SEGMENTOR, device='cpu'), 'EncoderDecoder')
        check(MMSegInferencer(SEGMENTOR, device='cpu').model, 'EncoderDecoder')

    def test_classification_inferencer(self):
        from mmpretrain import ImageClassificationInferencer

        with DefaultScope.overwrite_default_scope('mmpretrain'):
            check(ImageClassificationInferencer(CLASSIFIER, pretrained=False, device='cpu').model, 'ImageClassifier')

    def test_hub(self):
        check(get_model(DETECTOR), 'RetinaNet')
        check(get_model(CLASSIFIER), 'ImageClassifier')


def test_other_configs_are_handed_on_as_they_are():
    cfg = Config.fromfile(str(shipped.find_config(DETECTOR.replace('sakd', 'spiking'))))
    assert compat.student_of(cfg).to_dict() == cfg.to_dict()
    assert compat.student_of('resnet18_8xb32_in1k') == 'resnet18_8xb32_in1k'
    assert compat.student_of(None) is None


def test_classes_that_a_config_names():
    from mmseg.datasets import BaseSegDataset, CityscapesDataset

    own = BaseSegDataset(metainfo=dict(classes=('a', 'b')), lazy_init=True)
    assert own.METAINFO['classes'] == ('a', 'b') and not BaseSegDataset.METAINFO
    theirs = CityscapesDataset(metainfo=dict(classes=('road', 'wall')), lazy_init=True)
    assert theirs.METAINFO is CityscapesDataset.METAINFO


def test_inherited_visualizer():
    from mmpretrain.visualization import UniversalVisualizer

    assert UniversalVisualizer(_scope_='mmpretrain', vis_backends=[])


@pytest.mark.parametrize('name', ['mmdet::nothing.py', 'mmsnn::nothing.py', 'nothing::a/b.py', 'a/b.py', '../x::y'])
def test_no_such_config(name):
    assert shipped.find_config(name) is None


@pytest.mark.parametrize(
    'name, said',
    [
        ('mmsnn::spiking/retinanet_sew18_bccd', r'did you mean mmsnn::spiking/retinanet_sew18_bccd\.py\?'),
        ('mmsnn::spiking/retinanet_sew18_bcd.py', r'did you mean .*mmsnn::spiking/retinanet_sew18_bccd\.py'),
        ('mmsnn::zzz.py', "'mmsnn list configs' lists those of mmsnn"),
        ('nothing::a/b.py', "'nothing' is not an installed package"),
    ],
)
def test_the_name_of_a_config_that_does_not_exist(name, said):
    with pytest.raises(FileNotFoundError, match=said):
        building.read(name)


@pytest.mark.parametrize('given', [True, False])
def test_mmpretrain_beside_transformers_5(given, tmp_path):
    """Whose functions mmpretrain's multimodal models import; it takes every newer version for sufficient."""
    (tmp_path / 'transformers').mkdir()
    (tmp_path / 'transformers/__init__.py').write_text('')
    (tmp_path / 'transformers/pytorch_utils.py').write_text(
        'def find_pruneable_heads_and_indices(): pass\n' if given else 'def prune_linear_layer(): pass\n'
    )
    (tmp_path / 'transformers-5.17.0.dist-info').mkdir()
    (tmp_path / 'transformers-5.17.0.dist-info/METADATA').write_text('Name: transformers\nVersion: 5.17.0\n')
    code = 'import mmsnn; from mmpretrain.utils import dependency; print(dependency.WITH_MULTIMODAL)'
    if not given:
        code = code + '; import mmpretrain.models'
        code += (
            '\ntry: mmpretrain.models.MODELS.build(dict(type="Blip2VQA"))\nexcept ImportError as error: print(error)'
        )
    env = cli.own_environment()
    env['PYTHONPATH'] += f'{os.pathsep}{tmp_path}'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == 'True' if given else 'False' in done.stdout and 'multi-modal' in done.stdout
