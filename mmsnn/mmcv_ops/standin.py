"""Puts the stand-in in the place of ``mmcv._ext`` where mmcv comes without its compiled ops."""

import functools
import importlib.machinery
import importlib.util
import os
import re
import sys
import types

from mmengine.logging import print_log

from . import attention, carafe, deform_conv, focal_loss, masked_conv, nms, roi, sync_bn

NAME = 'mmcv._ext'
SWITCH = 'MMSNN_MMCV_STANDIN'
FILES = (attention, carafe, deform_conv, focal_loss, masked_conv, nms, roi, sync_bn)
OPS = {name: getattr(file, name) for file in FILES for name in file.__all__}


class StandIn(types.ModuleType):
    """The module put in the place of ``mmcv._ext``."""

    def __getattr__(self, name: str):
        # mmcv asks for all of its ops by hasattr when it is imported, so an op we lack may fail only when called.
        if name.startswith('__'):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise RuntimeError(
                f'{name} needs a compiled mmcv: mmcv is installed without its compiled ops, and this one is not among '
                f'those mmsnn replaces ({supplied()}). Build mmcv from source with torch installed '
                "and pip's --no-build-isolation."
            )

        return missing


def install() -> bool:
    """Make ``mmcv.ops`` importable where mmcv has no compiled ops; return whether the stand-in is in place.

    Must run before ``mmcv.ops`` is imported. Does nothing where mmcv is absent or compiled, or where the environment
    variable ``MMSNN_MMCV_STANDIN`` is 0: mmcv's own ImportError then says what is missing.
    """
    if isinstance(sys.modules.get(NAME), StandIn):
        return True
    mmcv = importlib.util.find_spec('mmcv')
    if mmcv is None or os.environ.get(SWITCH) == '0' or is_compiled(mmcv):
        return False
    module = StandIn(NAME, sys.modules[__package__].__doc__)
    # importlib.util.find_spec, by which mmengine looks for the compiled ops, refuses modules without one.
    module.__spec__ = importlib.machinery.ModuleSpec(NAME, loader=None, origin=__name__)
    module.get_compiler_version = module.get_compiling_cuda_version = lambda: 'not compiled (stand-in of mmsnn)'
    for name, op in OPS.items():
        setattr(module, name, announced(op))
    sys.modules[NAME] = module
    return True


def is_compiled(mmcv: importlib.machinery.ModuleSpec) -> bool:
    """Whether the mmcv found at ``mmcv`` has its compiled ops. Imports nothing: that would cost every user seconds."""
    return importlib.machinery.PathFinder.find_spec(NAME, mmcv.submodule_search_locations) is not None


def announced(op):
    """``op``, which says once per process that it is not mmcv's: late enough to stand in a training's log file."""

    @functools.wraps(op)
    def call(*args, **kwargs):
        announce()
        return op(*args, **kwargs)

    return call


@functools.cache
def announce():
    print_log(
        f'mmcv is installed without its compiled ops: mmsnn supplies {supplied()} ({SWITCH}=0 refuses them).',
        logger='current',
    )


def supplied() -> str:
    """The ops there are, by the names mmcv's users know."""
    return ', '.join(sorted({re.sub('_(forward|backward).*', '', name) for name in OPS}))
