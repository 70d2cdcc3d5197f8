"""mmsnn: spiking neural networks for OpenMMLab."""

from importlib import import_module

from . import import_hook
from .version import __version__

import_hook.install()

# Public names and the modules that hold them; a module is imported when one of its names is first used.
NAMES = dict(
    event_driven='inference',
    event_report='inference',
    get_time_steps='layers.time',
    NeuronSettings='ops.neuron',
    record='neurons',
    register_surrogate='ops.surrogates',
    set_time_steps='layers.time',
)
PACKAGES = (
    'analysis',
    'checkpoints',
    'datasets',
    'deploy',
    'distill',
    'engine',
    'inference',
    'layers',
    'models',
    'neurons',
    'ops',
    'visualize',
)

__all__ = ['__version__', *NAMES]


def __getattr__(name: str):
    if name in PACKAGES:
        return import_module(f'.{name}', __name__)
    if name not in NAMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = globals()[name] = getattr(import_module(f'.{NAMES[name]}', __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *NAMES, *PACKAGES})
