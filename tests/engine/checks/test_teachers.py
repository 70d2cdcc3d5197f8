import pytest

import mmsnn  # noqa: F401  before the libraries: it supplies mmcv's compiled ops where they are missing
from mmsnn.engine.checks import check_config, check_data


def config(teacher, student=3, **changes):
    head = dict(type='LinearClsHead', num_classes=student, in_channels=8)
    return dict(model=dict(type='mmsnn.Distiller', student=dict(head=head), teacher=teacher, **changes))


def test_a_teacher_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"^model\.teacher: 'gone\.py' cannot be read"):
        check_data(config('gone.py'))
    with pytest.raises(FileNotFoundError, match=r'^model\.teacher_checkpoint: .*gone\.pth.*Train the teacher first'):
        check_data(config(dict(type='Some'), teacher_checkpoint='gone.pth'))
    with pytest.raises(FileNotFoundError, match=r'^model\.teachers\.big\.checkpoint: '):
        check_data(config(None, teachers=dict(big=dict(config=dict(type='Some'), checkpoint='gone.pth'))))
    check_data(config(dict(type='Some'), teacher_checkpoint='torchvision://resnet18'))
    check_data(config('gone.py'), ('test',))


def test_a_teacher_of_other_classes(tmp_path):
    file = tmp_path / 'teacher.py'
    file.write_text("model = dict(type='ImageClassifier', head=dict(type='LinearClsHead', num_classes=10))")
    (found,) = check_config(config(str(file)))
    assert found.key == 'model.teacher' and '10 classes, and the student' in found.text
    assert not list(check_config(config(str(file), student=10)))
