"""Configs that cannot be read are told with their file, the line and what is near."""

import re

import pytest

from mmsnn.building import read


@pytest.fixture
def folder(tmp_path):
    for name, text in {
        'broken.py': "model = dict(type='RetinaNet')\nx = undefined",
        'bracket.py': 'x = (',
        'child.py': "_base_ = ['broken.py']",
        'lazy.py': 'from mmengine.config import read_base\nwith read_base():\n    from .broken import *',
        'lost.py': "_base_ = ['brokne.py']",
        'far.py': "_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coc.py'",
        'grandchild.py': "_base_ = 'lost.py'",
        'one.py': 'model = 1',
        'two.py': 'model = 2',
        'twice.py': "_base_ = ['one.py', 'two.py']",
        'comma.json': '{"a": 1,}',
        'bracket.yaml': 'model: [1',
        'notes.txt': 'x = 1',
        'has_a_fault.py': 'def f():\n    raise RuntimeError("a fault of its own")\nf()',
        'faulty.py': "custom_imports = dict(imports=['has_a_fault'])",
        'imports.py': "custom_imports = dict(imports=['no_such_module'])",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / 'folder.py').mkdir()
    return tmp_path


@pytest.mark.parametrize(
    'name, kind, said',
    [
        ('brokn.py', FileNotFoundError, r"there is no config '\S+brokn.py'; did you mean \S+broken.py\?$"),
        ('folder.py', FileNotFoundError, r"there is no config '\S+folder.py': it is a folder$"),
        ('lost.py', FileNotFoundError, r'^\S+lost.py: there is no base \S+brokne.py; did you mean \S+broken.py\?$'),
        ('grandchild.py', FileNotFoundError, r'^\S+grandchild.py, in its base \S+lost.py: there is no base \S+brok'),
        ('far.py', FileNotFoundError, r'^\S+far.py: there is no base \S+1x_coc.py; did you mean \S+1x_coco.py'),
        ('broken.py', ValueError, r"^the config \S+broken.py cannot be read: line 2: NameError: name 'undefined'"),
        ('child.py', ValueError, r'^the config \S+child.py, in its base \S+broken.py cannot be read: line 2: NameE'),
        ('lazy.py', ValueError, r'^the config \S+lazy.py, in its base \S+broken.py cannot be read: line 2: NameErr'),
        ('bracket.py', ValueError, r"^the config \S+bracket.py cannot be read: '\(' was never closed .*line 1"),
        ('twice.py', ValueError, r"twice.py cannot be read: .*Duplicate keys: {'model'}"),
        ('comma.json', ValueError, r'comma.json cannot be read: Expecting .*line 1 column 9'),
        ('bracket.yaml', ValueError, r'bracket.yaml cannot be read: .*line 1, column 8'),
        ('faulty.py', ValueError, r'faulty.py cannot be read: \S+has_a_fault.py, line 2: RuntimeError: a fault of its'),
        ('notes.txt', ValueError, r'notes.txt cannot be read: Only py/yml/yaml/json'),
        (
            'imports.py',
            ValueError,
            r"imports.py cannot be read: custom_imports: .*No module named 'no_such_module'; its folder must",
        ),
    ],
)
def test_what_cannot_be_read(folder, name, kind, said):
    with pytest.raises(kind) as raised:
        read(str(folder / name))
    assert re.search(said, str(raised.value)), raised.value
    assert '\n' not in str(raised.value)
