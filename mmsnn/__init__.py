"""mmsnn: spiking neural networks for OpenMMLab."""

from .compat import mend_module_names, warn_of_misfit_torchvision
from .mmcv_ops import install as install_mmcv_ops
from .version import __version__

# before anything imports mmcv.ops, which mmdet.models does
warn_of_misfit_torchvision()
mend_module_names()
install_mmcv_ops()

from .layers.time import get_time_steps, set_time_steps  # noqa: E402

__all__ = ['__version__', 'get_time_steps', 'set_time_steps']
