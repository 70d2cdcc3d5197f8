"""Patches OpenMMLab's libraries when they are imported, so that importing mmsnn is cheap.

This module uses only the standard library, because the start-up hook of an installed mmsnn (``mmsnn.pth``, written by
setup.py) loads it in every process that imports one of OpenMMLab's packages.
"""

import importlib
import importlib.machinery
import os
import sys
import warnings

STANDIN = 'mmcv._ext'
SWITCH = 'MMSNN_MMCV_STANDIN'
# By module, the functions of mmsnn.compat that patch it after it is loaded.
MENDS = {
    'mmengine.config.utils': ('name_packages',),
    'mmengine.config.config': ('find_bases', 'keep_variants'),
    'mmengine.hub.hub': ('build_own_models',),
    'mmengine.registry': ('warn_of_misfit_torchvision',),
    'mmengine.infer.infer': ('infer_with_students',),
    'mmdet.apis.inference': ('read_students',),
    'mmseg.apis.inference': ('read_students',),
    'mmpretrain.apis.model': ('read_students',),
    'mmseg.datasets.basesegdataset': ('tell_classes',),
    'mmpretrain.utils.dependency': ('leave_out_multimodal',),
    'mmpretrain.visualization.visualizer': ('visualize_inherited',),
}


class Finder:
    """Import finder that finds the modules in ``MENDS`` as Python does and patches them after loading.

    If mmcv has no compiled ops, it provides mmsnn's replacement of them (`mmsnn.mmcv_ops`) as ``mmcv._ext``, unless the
    environment variable ``MMSNN_MMCV_STANDIN`` is 0.
    """

    def find_spec(self, name: str, path=None, target=None) -> importlib.machinery.ModuleSpec | None:
        if name not in MENDS and name != STANDIN:
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, 'find_spec')]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if name in MENDS and spec is not None:
            _mend_when_loaded(spec.loader)
        if name == STANDIN and spec is None and os.environ.get(SWITCH) != '0':
            return importlib.machinery.ModuleSpec(name, StandInLoader(), origin='mmsnn.mmcv_ops.standin')
        return spec


class StandInLoader:
    """Loads mmsnn's replacement of mmcv's compiled ops."""

    def create_module(self, spec: importlib.machinery.ModuleSpec):
        return importlib.import_module('mmsnn.mmcv_ops.standin').StandIn(spec.name)

    def exec_module(self, module) -> None:
        """Do nothing, because `create_module` returns the complete module."""


def install() -> None:
    """Patch modules that are imported already, and those that will be. It may be called several times."""
    if any(isinstance(finder, Finder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, Finder())
    for name in MENDS.keys() & sys.modules.keys():
        _mend(sys.modules[name])


def _mend_when_loaded(loader) -> None:
    load = loader.exec_module

    def exec_module(module) -> None:
        load(module)
        _mend(module)

    loader.exec_module = exec_module


def _mend(module) -> None:
    try:
        for mend in MENDS[module.__name__]:
            getattr(importlib.import_module('mmsnn.compat'), mend)(module)
    # An error in mmsnn must not prevent the import of other libraries.
    except Exception as error:
        warnings.warn(f'mmsnn could not patch {module.__name__}: {type(error).__name__}: {error}', stacklevel=2)
