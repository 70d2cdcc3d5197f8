"""The stand-in as a module in mmcv's place; and all tests of this folder once more with a compiled mmcv.

``test_compiled_mmcv`` takes the mmcv wheel named by MMSNN_MMCV_WHEEL, or found in a folder ``shared/wheels`` beside the
repository.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import mmengine.utils.dl_utils
import pytest
import torch
from mmcv import ops

from mmsnn import compat
from mmsnn.mmcv_ops import common, standin

REPO = Path(__file__).parents[2]
BOXES = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([0.5])


@pytest.mark.usefixtures('standin')
class TestModule:
    def test_looks_like_a_module(self):
        assert mmengine.utils.dl_utils.mmcv_full_available()
        assert 'stand-in' in ops.get_compiler_version()
        assert standin.active()

    def test_other_ops_say_what_is_needed(self):
        with pytest.raises(RuntimeError, match='border_align_forward needs a compiled mmcv.*carafe, .*deform_conv, '):
            ops.border_align(torch.zeros(1, 4, 2, 2), torch.zeros(1, 1, 4), 2)

    def test_refused_by_the_environment(self, monkeypatch):
        monkeypatch.delitem(sys.modules, standin.NAME)
        monkeypatch.setenv(standin.SWITCH, '0')
        assert not standin.active()
        with pytest.raises(ModuleNotFoundError, match='mmcv._ext'):
            __import__(standin.NAME)

    def test_says_so_once(self, monkeypatch):
        said = []
        monkeypatch.setattr(standin, 'print_log', lambda text, logger: said.append(text))
        standin.announce.cache_clear()
        for _ in range(2):
            ops.nms(*BOXES, 0.5)
        assert len(said) == 1 and 'nms' in said[0] and standin.SWITCH in said[0]

    def test_torchvision_that_does_not_fit(self, monkeypatch):
        # What Python does for a module that is None here is to raise ImportError.
        monkeypatch.setitem(sys.modules, 'torchvision.ops', None)
        common.torchvision_ops.cache_clear()
        with pytest.raises(ImportError, match='do not work together.*pip install'):
            ops.nms(*BOXES, 0.5)

    @pytest.mark.parametrize('version, warns', [('0.26.0+cu130', True), ('0.26.0+cpu', False), ('0.26.0', False)])
    def test_cpu_torch_beside_cuda_torchvision(self, version, warns, monkeypatch, recwarn):
        monkeypatch.setattr(torch.version, 'cuda', None)
        monkeypatch.setattr(compat, 'torchvision_version', lambda: version)
        compat.warn_of_misfit_torchvision()
        assert [str(w.message) for w in recwarn] == ([compat.torchvision_hint()] if warns else [])

    def test_models_import(self):
        import mmdet.models
        import mmseg.models

        assert mmdet.models.RetinaNet and mmseg.models.FCNHead


@pytest.mark.usefixtures('compiled')
def test_left_alone():
    assert not isinstance(sys.modules[standin.NAME], standin.StandIn)
    assert sys.modules[standin.NAME].__file__.endswith('.so')


@pytest.mark.usefixtures('standin')
def test_compiled_mmcv(tmp_path):
    """Repeat the tests of this folder in a process that has a compiled mmcv."""
    tag = f'cp{sys.version_info.major}{sys.version_info.minor}'
    named = os.environ.get('MMSNN_MMCV_WHEEL')
    wheels = [Path(named)] if named else sorted((REPO.parent / 'shared' / 'wheels').glob(f'*mmcv-*{tag}*.whl'))
    if not wheels:
        pytest.skip(f'no compiled mmcv wheel for {tag}; name one in MMSNN_MMCV_WHEEL')
    zipfile.ZipFile(wheels[0]).extractall(tmp_path)
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', str(Path(__file__).parent)],
        # Without the stand-in, a wheel that is not found fails the run instead of skipping its comparisons.
        env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(tmp_path), str(REPO)]), standin.SWITCH: '0'},
        capture_output=True,
        text=True,
    )
    if 'undefined symbol' in result.stdout:
        pytest.skip(f'{wheels[0].name} was built for another torch')
    assert result.returncode == 0, result.stdout
