import itertools
import json
import math
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch.nn import functional as F

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / 'tools/analysis_tools'

# the neuron fires on random weights
SPIKING = "dict(type='mmsnn.SEWResNet', depth=18, base_channels=4, T=2, neuron=dict(type='LIF', v_threshold=0.2))"
ANN = "dict(type='{}.ResNet', depth=18, base_channels=4, {})"
BASE = """
default_scope = '{task}'
custom_imports = dict(imports=['mmsnn'])
backbone = {backbone}
model = {model}
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict({dataset}))
"""
SEGMENTOR = """dict(
    type='EncoderDecoder', backbone=backbone, test_cfg=dict(mode='whole'),
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[127.5] * 3, std=[30] * 3, bgr_to_rgb=True, test_cfg=dict(size_divisor=32)),
    decode_head=dict(
        type='FCNHead', in_channels=32, channels=8, num_convs=1, num_classes=3, in_index=3, norm_cfg=dict(type='BN')))
"""
DETECTOR = """dict(
    type='RetinaNet', backbone=backbone,
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[127.5] * 3, std=[30] * 3, bgr_to_rgb=True, pad_size_divisor=32),
    neck=dict(type='FPN', in_channels=[4, 8, 16, 32], out_channels=8, start_level=1, num_outs=3),
    bbox_head=dict(
        type='RetinaHead', num_classes=3, in_channels=8, feat_channels=8, stacked_convs=1,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0], strides=[8, 16, 32])))
"""
CLASSIFIER = """dict(
    type='ImageClassifier', backbone=backbone, neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=32))
data_preprocessor = dict(num_classes=3, mean=[127.5] * 3, std=[30] * 3, to_rgb=True)
"""
READ = "dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 48))"
TASKS = dict(
    mmpretrain=(
        CLASSIFIER,
        'stem_channels=4, out_indices=(0, 1, 2, 3)',
        f"type='CustomDataset', data_root={{root!r}}, with_label=False, pipeline=[{READ}, dict(type='PackInputs')]",
    ),
    mmdet=(
        DETECTOR,
        'norm_eval=False',
        "type='CocoDataset', data_root={root!r}, ann_file='annotations.json', data_prefix=dict(img=''), test_mode=True,"
        "metainfo=dict(classes=('a', 'b', 'c')), "
        f"pipeline=[{READ}, dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')]",
    ),
    mmseg=(
        SEGMENTOR,
        "norm_cfg=dict(type='BN')",
        "type='BaseSegDataset', data_root={root!r}, data_prefix=dict(img_path=''), img_suffix='.png', test_mode=True,"
        "metainfo=dict(classes=('a', 'b', 'c')), "
        f"pipeline=[{READ}, dict(type='PackSegInputs')]",
    ),
)
DISTILLED = """
_base_ = 'student.py'
model = dict(
    _delete_=True, type='mmsnn.Distiller', student=_base_.model, teacher={teacher!r}, teacher_checkpoint={checkpoint!r},
    losses=dict(loss_x=dict(type='nothing.that.exists')))
"""


def run(*args):
    return runpy.run_path(str(FOLDER / 'saliency.py'))['main'](list(map(str, args)))


@pytest.fixture(scope='module', params=TASKS)
def home(request, tmp_path_factory):
    """Configs and random weights of a student and a teacher, and three images of different shape."""
    return furnish(tmp_path_factory.mktemp(request.param), request.param)


def furnish(home, task):
    images = home / 'images'
    images.mkdir()
    rng = np.random.default_rng(0)
    for i, size in enumerate([(36, 48), (40, 40), (48, 32)]):
        pixels = rng.integers(0, 60, (*size, 3))
        pixels[8:24, 4 + 6 * i : 20 + 6 * i] += [30, 90, 180]
        cv2.imwrite(str(images / f'block{i}.png'), pixels.astype(np.uint8))
    content = dict(
        images=[dict(id=i, file_name=f'block{i}.png', height=40, width=40) for i in range(3)],
        annotations=[],
        categories=[dict(id=i, name=name) for i, name in enumerate('abc')],
    )
    (images / 'annotations.json').write_text(json.dumps(content))
    write(home, task)
    return home


def write(home, task):
    model, more, dataset = TASKS[task]
    for seed, (name, backbone) in enumerate(dict(student=SPIKING, teacher=ANN.format(task, more)).items()):
        path = home / f'{name}.py'
        dataset_here = dataset.format(root=str(home / 'images'))
        path.write_text(BASE.format(task=task, backbone=backbone, model=model, dataset=dataset_here))
        cfg = Config.fromfile(path)
        torch.manual_seed(seed)
        with DefaultScope.overwrite_default_scope(task):
            built = MODELS.build(cfg.model)
        built.init_weights()
        torch.save(dict(state_dict=built.state_dict()), home / f'{name}.pth')
    places = dict(teacher=str(home / 'teacher.py'), checkpoint=str(home / 'teacher.pth'))
    (home / 'distilled.py').write_text(DISTILLED.format(**places))


def network(home, name):
    cfg = Config.fromfile(home / f'{name}.py')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(
            dict(cfg.model, data_preprocessor=cfg.get('data_preprocessor', cfg.model.get('data_preprocessor')))
        )
    model.load_state_dict(torch.load(home / f'{name}.pth', weights_only=True)['state_dict'])
    return model.eval()


@pytest.fixture(scope='module')
def seen(home):
    """The report on two files, whose folder is ``home / 'made'``."""
    files = sorted((home / 'images').glob('*.png'))[:2]
    teacher = ['--teacher', home / 'teacher.py', '--teacher-checkpoint', home / 'teacher.pth']
    options = ['--images', *files, '--out', home / 'made', '--top', 20, '--boxes', 3]
    return run(home / 'student.py', home / 'student.pth', *teacher, *options)


def test_what_is_written(home, seen):
    assert [image.name for image in seen.images] == ['block0', 'block1']
    found = json.loads((home / 'made' / 'saliency.json').read_text())
    assert found['teacher'] == str(home / 'teacher.py') and found['checkpoint'] == str(home / 'student.pth')
    assert found['mean'] == seen.as_dict()['mean']
    for i, image in enumerate(seen.images):
        # as the pipeline has made it, without padding
        assert image.maps['gradient']['student'].shape == image.maps['grad_cam']['teacher'].shape == (48, 64)
        assert all(image.maps['gradient'][role].max() > 0 for role in ('teacher', 'student'))
        picture = cv2.imread(str(home / 'made' / f'00{i}_block{i}.png'))
        # five panels in a row, in colour
        assert picture.shape[1] > 3 * picture.shape[0]
        assert (picture[..., 0] != picture[..., 2]).any()


def test_distillation_config_names_its_teacher(home, seen, capsys):
    # the files are the first of the data set, too
    report = run(home / 'distilled.py', home / 'student.pth', '--first', 2, '--top', 20, '--boxes', 3)
    assert report.as_dict() == seen.as_dict()
    text = capsys.readouterr().out
    assert all(word in text for word in ('block0', 'block1', 'IoU top 20 %', 'Grad-CAM', 'mean'))


def test_weights_of_both_are_loaded(home, seen):
    image = cv2.resize(cv2.imread(str(home / 'images/block0.png')), (64, 48))
    x = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1).float()
    x = F.pad((x - 127.5) / 30, (0, 0, 0, 0 if 'mmpretrain' in home.name else 16))[None]
    label = seen.images[0].label
    for name in ('student', 'teacher'):
        model = network(home, name)
        with torch.no_grad():
            if 'mmpretrain' in home.name:
                p = model(x)[0].softmax(0)[label].item()
            elif 'mmdet' in home.name:
                levels = model.bbox_head(model.extract_feat(x))[0]
                p = torch.cat([level.flatten() for level in levels]).sigmoid().topk(3).values.mean().item()
            else:
                large = [
                    F.interpolate(net.decode_head(net.extract_feat(x)), (64, 64), mode='bilinear')[0, :, :48]
                    for net in (model, network(home, 'teacher'))
                ]
                p = large[0].softmax(0)[label][large[1].argmax(0) == label].mean().item()
        assert seen.images[0].probability[name] == pytest.approx(p, rel=1e-4)


class TestClassification:
    @pytest.fixture
    def home(self, tmp_path):
        return furnish(tmp_path, 'mmpretrain')

    def test_options(self, home):
        common = [home / 'distilled.py', home / 'student.pth', '--first', '1']
        layers = ['--layer', 'backbone.layer3', '--teacher-layer', 'backbone.layer2']
        report = run(*common, *layers, '--label', 1, '--T', 3)
        assert report.layers == dict(student='backbone.layer3', teacher='backbone.layer2')
        assert report.images[0].label == 1
        probability = report.images[0].probability
        fewer = run(*common, '--label', 1, '--cfg-options', 'model.student.backbone.T=1')
        assert fewer.images[0].probability['student'] != probability['student']
        assert fewer.images[0].probability['teacher'] == pytest.approx(probability['teacher'])

    def test_of_several_teachers_the_first_counts(self, home):
        text = (home / 'distilled.py').read_text()
        teacher, checkpoint = str(home / 'teacher.py'), str(home / 'teacher.pth')
        one = f'teacher={teacher!r}, teacher_checkpoint={checkpoint!r}'
        several = f'teachers=dict(a=dict(config={teacher!r}, checkpoint={checkpoint!r}), b=dict(config=1))'
        (home / 'several.py').write_text(text.replace(one, several))
        assert len(run(home / 'several.py', home / 'student.pth', '--first', 1).images) == 1

    def test_model_config_as_teacher_and_no_checkpoints(self, home, monkeypatch):
        said = []
        monkeypatch.setattr('mmengine.logging.print_log', lambda message, *_, **__: said.append(message))
        text = (home / 'distilled.py').read_text().replace(repr(str(home / 'teacher.py')), '_base_.model')
        (home / 'self.py').write_text(text.replace(repr(str(home / 'teacher.pth')), 'None'))
        (image,) = run(home / 'self.py', '--first', 1).images
        assert set(image.probability) == {'teacher', 'student'}
        keys = 'model.teacher_checkpoint', 'checkpoint'
        assert all(f'no {key}: the weights are those that training begins with' in said for key in keys)

    def test_missing_checkpoints_list_what_is_there(self, home):
        with pytest.raises(FileNotFoundError, match=r'checkpoint: .*epoch_9.pth.*there is student.pth, teacher.pth'):
            run(home / 'distilled.py', home / 'epoch_9.pth')
        with pytest.raises(FileNotFoundError, match='--teacher-checkpoint: .*gone/a.pth.* there is none'):
            run(home / 'distilled.py', home / 'student.pth', '--teacher-checkpoint', home / 'gone' / 'a.pth')
        (home / 'teacher.pth').unlink()
        with pytest.raises(FileNotFoundError, match='model.teacher_checkpoint: .*there is student.pth'):
            run(home / 'distilled.py', home / 'student.pth')

    def test_missing_layer_lists_what_is_there(self, home):
        with pytest.raises(ValueError, match='student tap .*backbone has .*layer1, layer2'):
            run(home / 'distilled.py', home / 'student.pth', '--layer', 'backbone.stage1')

    def test_no_teacher(self, home):
        with pytest.raises(ValueError, match='student.py names no teacher: give its config, --teacher'):
            run(home / 'student.py', home / 'student.pth')

    def test_weights_of_another_network(self, home):
        torch.save(dict(state_dict={'backbone.conv1.weight': torch.zeros(1)}), home / 'other.pth')
        with pytest.raises(ValueError, match=r'other.pth has other shapes than ImageClassifier'):
            run(home / 'distilled.py', home / 'student.pth', '--teacher-checkpoint', home / 'other.pth')

    def test_hostile_checkpoint_runs_nothing(self, home):
        class Hostile:
            def __reduce__(self):
                return (Path.touch, (home / 'trace',))

        torch.save(dict(state_dict={'a': torch.zeros(1)}, meta=Hostile()), home / 'student.pth')
        with pytest.raises(ValueError, match='student.pth was not loaded'):
            run(home / 'distilled.py', home / 'student.pth')
        assert not (home / 'trace').exists()

    def test_data(self, home):
        common = [home / 'distilled.py', home / 'student.pth']
        with pytest.raises(FileNotFoundError, match='test_dataloader.dataset.data_root'):
            run(*common, '--cfg-options', 'test_dataloader.dataset.data_root=gone')
        with pytest.raises(ValueError, match='test_dataloader is missing'):
            run(*common, '--cfg-options', 'test_dataloader=None')
        text = (home / 'distilled.py').read_text()
        pipeline = "test_dataloader = dict(dataset=dict(pipeline=[dict(type='PackInputs')]))"
        (home / 'memory.py').write_text(text + pipeline)
        with pytest.raises(ValueError, match='loads no image files: use --first'):
            run(home / 'memory.py', home / 'student.pth', '--images', 'a.png')


def test_event_frames_are_drawn_in_grey():
    picture = runpy.run_path(str(FOLDER / 'saliency.py'))['picture']
    frames = torch.zeros(3, 2, 4, 5)
    frames[:, 0, 1, 2] = 2
    frames[0, 1, 3, 4] = 3
    image = picture(frames, True)
    assert image.shape == (4, 5, 3) and image.dtype == np.uint8
    assert image[1, 2].tolist() == [255] * 3 and image[3, 4].tolist() == [127] * 3
    pixels = torch.randint(256, (3, 4, 5), dtype=torch.uint8)
    assert (picture(pixels, True) == picture(pixels, False)[..., ::-1]).all()


class TestSeveralStudents:
    @pytest.fixture
    def home(self, tmp_path):
        return furnish(tmp_path, 'mmpretrain')

    @pytest.fixture
    def several(self, monkeypatch):
        monkeypatch.syspath_prepend(str(FOLDER))
        return lambda *args: runpy.run_path(str(FOLDER / 'saliency_students.py'))['main'](list(map(str, args)))

    def test_seeds_and_students(self, home, several, capsys):
        """The means are those of saliency.py on the same images."""
        other = torch.load(home / 'student.pth', weights_only=True)
        other['state_dict'] = {k: v * 1.1 if v.dim() == 4 else v for k, v in other['state_dict'].items()}
        torch.save(other, home / 'other.pth')
        out = home / 'made.json'
        students = [f'two={home / "student.pth"},{home / "other.pth"}', f'one={home / "student.pth"}']
        several(home / 'distilled.py', '--students', *students, '--first', 3, '--out', out)
        found = json.loads(out.read_text())
        single = run(home / 'distilled.py', home / 'student.pth', '--first', 3)
        assert found['images'] == 3 and found['teacher_checkpoint'] == str(home / 'teacher.pth')
        first, second = found['students']['two']
        assert [{**first, 'checkpoint': ''}] == [{**s, 'checkpoint': ''} for s in found['students']['one']]
        assert first['gradient'] != second['gradient'] and first['gradient']['cosine']['images'] == 3
        for kind, figure in itertools.product(('gradient', 'grad_cam'), ('cosine', 'spearman', 'iou')):
            values = torch.tensor(single.values(kind, figure), dtype=torch.float64)
            seen = first[kind][figure]
            assert seen['images'] == len(values)
            if len(values) > 1:  # where not all maps are flat
                assert seen['mean'] == pytest.approx(values.mean().item())
                assert seen['error'] == pytest.approx(values.std().item() / math.sqrt(len(values)))
        rows = [
            line for line in capsys.readouterr().out.splitlines() if line.startswith(('| two | 2 |', '| one | 1 |'))
        ]
        assert ['±' in row for row in rows] == [True, False]
        picture = cv2.imread(str(out.with_suffix('.png')))
        assert picture.std() > 5

    @pytest.mark.parametrize(
        'students, said',
        [
            (['name'], 'NAME=CHECKPOINT'),
            (['a=x.pth', 'a=y.pth'], 'twice'),
            (['a=nowhere.pth'], '--students a: there is no checkpoint'),
        ],
    )
    def test_bad_students(self, home, several, capsys, students, said):
        with pytest.raises((SystemExit, FileNotFoundError)) as error:
            several(home / 'distilled.py', '--students', *students)
        assert said in capsys.readouterr().err + str(error.value)
