"""The installed versions, and the parts that are active."""

import importlib.metadata
import platform

import torch
from mmengine.utils.dl_utils import mmcv_full_available

from . import mmcv_ops
from .compat import torchvision_version
from .ops import extension


def version(module: str) -> str:
    """The version of a module, or the error that its import raises."""
    try:
        loaded = importlib.import_module(module)
        return getattr(loaded, '__version__', None) or importlib.metadata.version(module)
    # A library that is broken must not hide the versions of the others.
    except Exception as error:
        return f'{type(error).__name__}: {error}'.splitlines()[0]


def versions() -> dict[str, str]:
    """Versions, the GPU and the source of mmcv's ops, by name."""
    rows = {'python': platform.python_version(), 'torch': version('torch'), 'torchvision': torchvision_version()}
    rows |= {name: version(name) for name in ('mmsnn', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain')}
    rows['mmcv ops'] = "mmsnn's stand-in" if mmcv_ops.active() else 'compiled' if mmcv_full_available() else 'none'
    rows['spikingjelly'] = version('spikingjelly')
    rows['ops CPU'], rows['ops CUDA'] = extension.serving('cpu'), extension.serving('cuda')
    rows['GPU'] = torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'
    return rows
