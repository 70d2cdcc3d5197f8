"""Mends for how the libraries mmsnn stands on are named and packaged; no-ops where there is nothing to mend."""

import importlib.util
import re
import warnings
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

# what a name implies that the arguments of a ResNet say in mmsnn
RESNET_VARIANTS = {'ResNetV1c': dict(deep_stem=True), 'ResNetV1d': dict(deep_stem=True, avg_down=True)}
RESNETS = ('SEWResNet', 'SpikingResNet')


def mend_module_names() -> None:
    """Let ``_base_ = 'mmseg::...'`` and ``'mmsnn::...'`` find their configs.

    mmengine looks for a distribution called mmsegmentation, which OneDL's is not, and knows no mmsnn. By the import
    name it finds either.
    """
    MODULE2PACKAGE.update(mmseg='mmseg', mmsnn='mmsnn')


def mend_merging() -> None:
    """Let a spiking ResNet that replaces a ResNetV1c or ResNetV1d in an inherited config keep its stem and shortcuts.

    These two say ``deep_stem=True`` (and ``avg_down=True``) by their names, which merging another ``type`` over them
    would lose. What the child config says itself counts; ``_delete_=True`` inherits nothing.
    """
    merge = Config._merge_a_into_b
    if getattr(merge, 'keeps_variants', False):
        return

    def merge_and_keep(a, b, allow_list_keys=False):
        merged = merge(a, b, allow_list_keys)
        if isinstance(a, dict) and isinstance(b, dict) and _name(a) in RESNETS:
            for key, value in RESNET_VARIANTS.get(_name(b), {}).items():
                merged.setdefault(key, value)
        return merged

    merge_and_keep.keeps_variants = True
    Config._merge_a_into_b = staticmethod(merge_and_keep)


def _name(cfg: dict) -> str:
    kind = cfg.get('type')
    return (kind if isinstance(kind, str) else getattr(kind, '__name__', '')).rpartition('.')[2]


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
