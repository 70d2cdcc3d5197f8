"""Mends for how the libraries mmsnn stands on are named and packaged; no-ops where there is nothing to mend."""

import importlib.util
import re
import warnings
from pathlib import Path

import torch
from mmengine.config.utils import MODULE2PACKAGE


def mend_module_names() -> None:
    """Let ``_base_ = 'mmseg::...'`` and ``'mmsnn::...'`` find their configs.

    mmengine looks for a distribution called mmsegmentation, which OneDL's is not, and knows no mmsnn. By the import
    name it finds either.
    """
    MODULE2PACKAGE.update(mmseg='mmseg', mmsnn='mmsnn')


def warn_of_misfit_torchvision() -> None:
    """Warn where a CPU torch stands beside a CUDA torchvision, before the import fails with a riddle."""
    if torch.version.cuda is None and '+cu' in torchvision_version():
        warnings.warn(torchvision_hint(), stacklevel=2)


def torchvision_version() -> str:
    """Version with its local part (``0.26.0+cu130``), 'none' or 'unknown'; read, since the import may fail."""
    spec = importlib.util.find_spec('torchvision')
    if spec is None:
        return 'none'
    file = Path(spec.origin).with_name('version.py')
    found = re.search(r"__version__ = '(.+)'", file.read_text()) if file.exists() else None
    return found[1] if found else 'unknown'


def torchvision_hint() -> str:
    """What to do where torchvision does not fit torch ("operator torchvision::nms does not exist")."""
    return (
        f'torch {torch.__version__} and torchvision {torchvision_version()} do not work together: they must be of '
        'one release and of one build (both +cpu, or the same +cu...). Uninstall both, then install both by one '
        'command from one index: pip install -c constraints.txt torch torchvision'
    )
