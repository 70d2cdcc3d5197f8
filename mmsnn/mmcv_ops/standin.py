"""The module that stands in for ``mmcv._ext``."""

import functools
import importlib.util
import re
import sys
import types

from mmengine.logging import print_log

from mmsnn.import_hook import STANDIN as NAME
from mmsnn.import_hook import SWITCH, StandInLoader

from . import attention, carafe, deform_conv, focal_loss, masked_conv, nms, roi, sync_bn

FILES = (attention, carafe, deform_conv, focal_loss, masked_conv, nms, roi, sync_bn)
OPS = {name: getattr(file, name) for file in FILES for name in file.__all__}


class StandIn(types.ModuleType):
    """A module with the ops of this package; other ops raise RuntimeError when they are called."""

    def __init__(self, name: str = NAME):
        super().__init__(name, sys.modules[__package__].__doc__)
        self.get_compiler_version = self.get_compiling_cuda_version = lambda: 'not compiled (stand-in of mmsnn)'
        for op, function in OPS.items():
            setattr(self, op, announced(function))

    def __getattr__(self, name: str):
        # When mmcv is imported it checks all of its ops by hasattr, so a missing op may fail only when it is called.
        if name.startswith('__'):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise RuntimeError(
                f'{name} needs a compiled mmcv: mmcv is installed without its compiled ops, and this one is not among '
                f'those that mmsnn replaces ({supplied()}). Build mmcv from source with torch installed '
                "and pip's --no-build-isolation."
            )

        return missing


def active() -> bool:
    """Whether ``mmcv._ext`` is this stand-in; False if mmcv is missing or compiled, or the stand-in is switched off."""
    try:
        spec = importlib.util.find_spec(NAME)
    except ModuleNotFoundError:
        return False
    return spec is not None and isinstance(spec.loader, StandInLoader)


def announced(op):
    """``op`` with a message at its first call in a process, which is late enough for the log file of a training."""

    @functools.wraps(op)
    def call(*args, **kwargs):
        announce()
        return op(*args, **kwargs)

    return call


@functools.cache
def announce():
    print_log(
        f'mmcv is installed without its compiled ops: mmsnn supplies {supplied()} ({SWITCH}=0 switches them off).',
        logger='current',
    )


def supplied() -> str:
    """The ops of this package, by the names that users of mmcv know."""
    return ', '.join(sorted({re.sub('_(forward|backward).*', '', name) for name in OPS}))
