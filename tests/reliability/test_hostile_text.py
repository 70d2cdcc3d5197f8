"""R19: nothing in an annotation, an option or a file that lies about is executed; the config named is a script."""

import json
import os
import pickle
from contextlib import nullcontext
from pathlib import Path

import cli
import numpy as np
import pytest
import torch
import yaml
from mmengine.structures import InstanceData

from mmsnn.engine.checks import check_data
from mmsnn.engine.reading import SafePickleHandler

pytestmark = pytest.mark.row('R19')
EVIL = """
import pathlib
pathlib.Path({mark!r}).touch()
"""


class Calls:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f'touch {self.mark}',)


def records(images: int = 4) -> dict:
    """Annotations in mmengine's own format."""
    content = cli.coco(images)
    listed = [
        dict(
            img_path=image['file_name'],
            img_id=image['id'],
            height=64,
            width=64,
            instances=[
                dict(bbox=[4, 8, 34, 36], bbox_label=annotation['category_id'], ignore_flag=0)
                for annotation in content['annotations']
                if annotation['image_id'] == image['id']
            ],
        )
        for image in content['images']
    ]
    return dict(metainfo=dict(classes=list('abcde')), data_list=listed)


@pytest.fixture
def mark(tmp_path) -> Path:
    """A file that appears where code is executed."""
    return tmp_path / 'executed'


def dataset(folder: Path, ann_file: str) -> Path:
    """A config whose annotations are in mmengine's format."""
    config = cli.write_detector(folder, ann_file=ann_file, dataset='BaseDetDataset')
    config.write_text(config.read_text().replace("dict(img='images/')", "dict(img_path='images/')", 1))
    return config


def proposals() -> dict:
    return {f'images/{i}.png': InstanceData(bboxes=np.ones((3, 4)), scores=np.ones(3)) for i in range(4)}


def write(path: Path, content, mark=None, protocol: int = 4) -> None:
    """Write annotations in the format of the suffix; ``mark``: such that reading them would execute something."""
    if path.suffix == '.pkl':
        path.write_bytes(pickle.dumps([content, Calls(mark)] if mark else content, protocol=protocol))
    elif path.suffix == '.json':
        path.write_text(json.dumps(content))
    else:
        tag = f'\nx: !!python/object/apply:os.system ["touch {mark}"]\n' if mark else ''
        path.write_text(yaml.safe_dump(content) + tag)


@pytest.mark.parametrize('name', ['ann.pkl', 'ann.yaml', 'ann.yml'])
def test_annotations(tmp_path, mark, name):
    config = dataset(tmp_path, name)
    write(tmp_path / name, records(), mark)
    with pytest.raises(ValueError, match=rf'train_dataloader.dataset.ann_file: .*{name}.*not read'):
        cli.main('train', config, '--work-dir', tmp_path / 'run')
    assert not mark.exists()


@pytest.mark.parametrize('protocol', [0, 2, 5])
@pytest.mark.parametrize('tool', ['train', 'check'])
def test_proposals(tmp_path, mark, protocol, tool):
    config = cli.write_detector(tmp_path)
    write(tmp_path / 'proposals.pkl', proposals(), mark, protocol)
    option = f'train_dataloader.dataset.proposal_file={tmp_path / "proposals.pkl"}'
    # what is wrong is listed by check.py, and raised in training
    with pytest.raises(ValueError, match='proposal_file: .*not read') if tool == 'train' else nullcontext():
        cli.main(tool, config, '--work-dir', tmp_path / 'run', '--cfg-options', option)
    assert not mark.exists()


@pytest.mark.parametrize('name', ['ann.pkl', 'ann.yaml', 'ann.json'])
def test_sound_annotations_are_read(tmp_path, name):
    """So that the refusals above are those of what the files hold."""
    config = dataset(tmp_path, name)
    write(tmp_path / name, records())
    cli.main('train', config, '--work-dir', tmp_path / 'run')
    assert (tmp_path / 'run' / 'epoch_2.pth').is_file()


class Forged:
    """A dtype whose bytes are said to be objects, without the flag by which numpy would refuse them."""

    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        return np.dtype, ('V8', False, True), self.state


class Built:
    """Something that a function of the allowed ones is to make."""

    def __init__(self, function, *args, state=None):
        self.call = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.call


FORGED = Forged((3, '|', None, ('a',), {'a': (np.dtype('O'), 0)}, 8, 1, 0))
VIEW, NUMBERS = torch._utils._rebuild_tensor_v2, torch.zeros(4).storage()
FALSE_ARRAYS = {
    'bytes as objects': Built(np._core.numeric._frombuffer, b'AAAAAAAA', FORGED, (1,), 'C'),
    'an array by its class': Built(np.ndarray, (1 << 40,)),
    'fewer objects than claimed': Built(
        np._core.multiarray._reconstruct, np.ndarray, (0,), b'b', state=(1, (1 << 20,), np.dtype('O'), False, [None])
    ),
    'a view beyond its numbers': Built(VIEW, NUMBERS, 0, (2, 2), (1 << 40, 1)),
    'a view before its numbers': Built(VIEW, NUMBERS, 1 << 40, (1,), (1,)),
}


@pytest.mark.parametrize('kind', FALSE_ARRAYS)
def test_arrays_of_which_a_file_says_what_is_not_so(tmp_path, kind):
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(FALSE_ARRAYS[kind], protocol=4))
    with pytest.raises(ValueError, match='UnpicklingError'):
        SafePickleHandler().load_from_path(str(tmp_path / 'a.pkl'))


@pytest.mark.parametrize('protocol', [2, 4, 5])
def test_what_pickles_may_hold(tmp_path, protocol):
    content = dict(
        a=np.arange(6.0).reshape(2, 3), b=np.float32(2), c=np.array(['x', None], dtype=object), d={1, 2}, e=b'\xff',
        f=(1, 2.5, 'text'), g=np.asfortranarray(np.arange(4).reshape(2, 2)), h=np.zeros((0, 4)), i=b'',
    )  # fmt: skip
    write(tmp_path / 'a.pkl', content, protocol=protocol)
    found = SafePickleHandler().load_from_path(str(tmp_path / 'a.pkl'))
    for key, value in content.items():
        assert isinstance(found[key], type(value)) and np.array_equal(found[key], value)
    assert type(pickle.loads(pickle.dumps(found['a']))) is np.ndarray
    write(tmp_path / 'b.pkl', proposals(), protocol=protocol)
    found = SafePickleHandler().load_from_path(str(tmp_path / 'b.pkl'))
    assert np.array_equal(found['images/1.png'].bboxes, np.ones((3, 4)))


HOSTILE_TEACHERS = {
    'a script': EVIL,
    'a type with a module': "model = dict(type='os.system', command='touch {mark}')",
    'a script as its base': "_base_ = 'evil.py'\nmodel = dict()",
    'an import': "custom_imports = dict(imports=['evil'])\nmodel = dict(type='mmdet.RetinaNet')",
    'another scope': "default_scope = 'evil'\nmodel = dict(type='mmdet.RetinaNet')",
    'a name computed': "model = dict(**{{'ty' + 'pe': 'os.system'}}, command='touch {mark}')",
    'a bare module': "model = dict(type='evil')",
    'a type beside another': "model = dict()\nmodel['type'], y = 'os.system', 0",
    'an import beside another': "custom_imports, y = dict(imports=['evil']), 0\nmodel = dict(type='mmdet.RetinaNet')",
    'a base out of a package': "_base_ = 'mmsnn::{folder}/evil.py'\nmodel = dict()",
    'another dict': "dict = __import__\nmodel = dict(name='evil')",
    'another dict among builtins': "__builtins__['dict'] = __import__\nmodel = dict(name='evil')",
    'a dict that opens files': "dict = open\nmodel = dict(file='{mark}', mode='w')",
    'a type in a variable': "kind = 'os.system'\nmodel = dict(type=kind, command='touch {mark}')",
}


@pytest.mark.parametrize('kind', HOSTILE_TEACHERS)
def test_teacher_named_by_an_option(tmp_path, mark, monkeypatch, kind):
    config = cli.write_detector(tmp_path)
    distilled = tmp_path / 'distilled.py'
    distilled.write_text(
        f"_base_ = {str(config)!r}\nmodel = dict(_delete_=True, type='mmsnn.Distiller', student=_base_.model,\n"
        '    teacher=_base_.model, losses=dict())\n'
    )
    (tmp_path / 'evil.py').write_text(EVIL.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    teacher = tmp_path / 'teacher.py'
    teacher.write_text(HOSTILE_TEACHERS[kind].format(mark=str(mark), folder=tmp_path))
    with pytest.raises(ValueError, match='--cfg-options model.teacher'):
        cli.main('train', distilled, '--work-dir', tmp_path / 'run', '--cfg-options', f'model.teacher={teacher}')
    assert not mark.exists()


OPTIONS = (
    'model.backbone.type=evil.Net', 'model.type=os.system', 'model.backbone.type=mmengine.fileio.load',
    'default_scope=evil', 'model._scope_=evil', 'custom_imports.imports=evil', 'optim_wrapper.constructor=evil.Net',
    'train_dataloader.dataset.type=evil.Net', 'custom_hooks="[evil]"', 'runner_type=evil.Net',
    'train_dataloader.dataset.pipeline.0.type=evil.Net', 'visualizer.type=evil.Net', '_base_=evil.py',
    "work_dir=__import__('pathlib').Path('executed').touch()", 'model.backbone.depth="{{$(touch executed)}}"',
    "model.backbone.depth=__import__('evil')", 'train_cfg.type=evil', 'model.backbone.type=evil',
)  # fmt: skip


@pytest.mark.parametrize('option', OPTIONS)
def test_options(tmp_path, mark, monkeypatch, option):
    config = cli.write_detector(tmp_path)
    (tmp_path / 'evil.py').write_text(EVIL.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    raised = None
    try:
        cli.main('train', config, '--work-dir', tmp_path / 'run', '--cfg-options', option.replace('"', ''))
    except Exception as error:
        raised = error
    assert not mark.exists()
    harmless = option.startswith(('work_dir', '_base_'))
    assert raised is not None or harmless, option


def test_files_beside_a_checkpoint(tmp_path, mark, monkeypatch):
    """Configs, scripts and modules that lie about in the work dir and where the tool is started."""
    config = cli.write_detector(tmp_path / 'data')
    work = tmp_path / 'run'
    cli.main('train', config, '--work-dir', work)
    for name in (
        'detector.py',
        'config.py',
        'sitecustomize.py',
        'mmdet.py',
        'torch.py',
        'zero_to_fp32.py',
        'conftest.py',
    ):
        (work / name).write_text(EVIL.format(mark=str(mark)))
    (work / 'config.yaml').write_text(f'x: !!python/object/apply:os.system ["touch {mark}"]')
    (work / 'last_checkpoint').write_text(str(work / 'detector.py'))
    monkeypatch.chdir(work)
    cli.main('train', config, '--work-dir', work, '--resume', '--cfg-options', 'train_cfg.max_epochs=3')
    cli.main('test', config, work / 'epoch_3.pth', '--work-dir', work)
    assert (work / 'epoch_3.pth').is_file() and not mark.exists()


def test_the_config_named_is_a_script(tmp_path, mark):
    """What the docs say: it is run, and so are its bases."""
    config = cli.write_detector(tmp_path)
    config.write_text(config.read_text() + EVIL.format(mark=str(mark)))
    cli.main('train', config, '--work-dir', tmp_path / 'run', '--cfg-options', 'train_cfg.max_epochs=1')
    assert mark.exists()


def test_checks_alone_execute_nothing(tmp_path, mark):
    """Called from Python, without a tool that made mmengine's readers safe."""
    config = dataset(tmp_path, 'ann.pkl')
    write(tmp_path / 'ann.pkl', records(), mark)
    from mmengine.config import Config

    with pytest.raises(ValueError, match='not read'):
        check_data(Config.fromfile(config), ('train',))
    assert not mark.exists()
