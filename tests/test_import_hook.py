"""Importing mmsnn is cheap, and the libraries are mended when they are imported."""

import importlib
import subprocess
import sys

import pytest

import mmsnn
from mmsnn import compat, import_hook


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = 'import sys, mmsnn.__main__ as m; m.main(["--help"]); print({"torch", "mmengine", "numpy"} & {*sys.modules})'
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == 'set()'


def test_names_of_the_package():
    assert mmsnn.set_time_steps is importlib.import_module('mmsnn.layers').set_time_steps
    assert mmsnn.ops.lif is importlib.import_module('mmsnn.ops').lif
    assert {*mmsnn.__all__, 'ops', 'distill'} <= {*dir(mmsnn)}
    with pytest.raises(AttributeError, match="'mmsnn' has no attribute 'nothing'"):
        mmsnn.nothing  # noqa: B018


def test_installed_once():
    import_hook.install()
    assert sum(isinstance(finder, import_hook.Finder) for finder in sys.meta_path) == 1


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A module that is mended when it is imported, by `compat.mend_it`."""
    (tmp_path / 'library_to_mend.py').write_text('value = 1')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(import_hook.MENDS, 'library_to_mend', ('mend_it',))
    yield 'library_to_mend'
    sys.modules.pop('library_to_mend', None)


def test_mended_when_it_is_loaded(library, monkeypatch):
    monkeypatch.setattr(compat, 'mend_it', lambda module: setattr(module, 'value', module.value + 1), raising=False)
    assert importlib.import_module(library).value == 2


def test_what_cannot_be_mended_is_imported_all_the_same(library):
    with pytest.warns(UserWarning, match='mmsnn could not patch library_to_mend: AttributeError'):
        assert importlib.import_module(library).value == 1


def test_mends_are_there():
    assert all(callable(getattr(compat, name)) for names in import_hook.MENDS.values() for name in names)
