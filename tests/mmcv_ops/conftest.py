"""These tests run with the stand-in, and once more, by ``test_compiled_mmcv``, with a compiled mmcv beside it."""

import importlib
from types import SimpleNamespace

import pytest

from mmsnn.mmcv_ops import active, standin

STANDIN = active()


@pytest.fixture(name='standin')
def without_compiled():
    """Skip where mmcv is compiled."""
    if not STANDIN:
        pytest.skip('mmcv is compiled')


@pytest.fixture(name='compiled')
def with_compiled():
    """Skip where mmcv is not compiled: there our functions are compared with mmcv's own."""
    if STANDIN:
        pytest.skip('mmcv is not compiled; see test_compiled_mmcv')


@pytest.fixture
def ours(monkeypatch):
    """Let a module of ``mmcv.ops``, given by its name, call our functions where it would call compiled ones."""

    def swap(name: str):
        module = importlib.import_module(f'mmcv.ops.{name}')
        monkeypatch.setattr(module, 'ext_module', SimpleNamespace(**standin.OPS))

    return swap
