"""mmsnn: spiking neural networks for OpenMMLab."""

from .compat import mend_merging, mend_module_names, warn_of_misfit_torchvision
from .mmcv_ops import install as install_mmcv_ops
from .version import __version__

# before anything imports mmcv.ops, which mmdet.models does
warn_of_misfit_torchvision()
mend_module_names()
mend_merging()
install_mmcv_ops()

from .layers.time import get_time_steps, set_time_steps  # noqa: E402
from .ops.surrogates import register_surrogate  # noqa: E402


def __getattr__(name: str):
    # on demand, because neurons import more of mmengine than a command line needs
    if name == 'record':
        from .neurons import record

        return record
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


__all__ = ['__version__', 'get_time_steps', 'record', 'register_surrogate', 'set_time_steps']
