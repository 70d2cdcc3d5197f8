"""The registries of scope ``mmsnn``, children of mmengine's: ``dict(type='mmsnn.LIF')`` works in every config."""

from mmengine import registry as root
from mmengine.registry import Registry

MODELS = Registry(
    'model',
    parent=root.MODELS,
    scope='mmsnn',
    locations=['mmsnn.neurons', 'mmsnn.models', 'mmsnn.distill'],
)
HOOKS = Registry('hook', parent=root.HOOKS, scope='mmsnn', locations=['mmsnn.engine.hooks', 'mmsnn.report'])
PARAM_SCHEDULERS = Registry(
    'parameter scheduler', parent=root.PARAM_SCHEDULERS, scope='mmsnn', locations=['mmsnn.engine.schedulers']
)
OPTIM_WRAPPERS = Registry('optim_wrapper', parent=root.OPTIM_WRAPPERS, scope='mmsnn', locations=['mmsnn.engine.amp'])
LOOPS = Registry('loop', parent=root.LOOPS, scope='mmsnn', locations=['mmsnn.engine.loops'])
STRATEGIES = Registry('strategy', parent=root.STRATEGIES, scope='mmsnn', locations=['mmsnn.engine.strategy'])
DATASETS = Registry('dataset', parent=root.DATASETS, scope='mmsnn', locations=['mmsnn.datasets'])
TRANSFORMS = Registry('transform', parent=root.TRANSFORMS, scope='mmsnn', locations=['mmsnn.datasets'])
METRICS = Registry('metric', parent=root.METRICS, scope='mmsnn', locations=['mmsnn.analysis'])


def build_own(cfg: dict, **defaults):
    """Build one of mmsnn's own parts from ``cfg``.

    Unlike ``Registry.build``, which looks an unscoped type up in the run's default scope first, ``dict(type='LIF')``
    here always means ``mmsnn.LIF``; other scopes are written out (``type='mmcv.Swish'``). mmengine adds ``_scope_`` to
    what a config inherits from another package; it is used only for types that mmsnn does not have.

    Args:
        cfg: a dict with a ``type`` and the arguments of that class.
        defaults: arguments that ``cfg`` does not set.

    Raises:
        KeyError: the type is not registered.
        TypeError: ``cfg`` is not a dict with a ``type``, or the class does not take one of the keys.
    """
    if not isinstance(cfg, dict) or 'type' not in cfg:
        raise TypeError(f"expected a dict with a 'type', got {cfg!r}")
    args = {**defaults, **cfg}
    cls = find_own(args)
    if cls is None:
        raise KeyError(f'{cfg["type"]!r} is not registered in mmsnn; known: {", ".join(sorted(MODELS.module_dict))}')
    del args['type']
    return cls(**without_scope(args))


def without_scope(cfg: dict) -> dict:
    """A copy without ``_scope_``, which mmengine adds to everything that a config inherits from a package."""
    return {key: value for key, value in cfg.items() if key != '_scope_'}


def find_own(cfg: dict) -> type | None:
    """The class from which `build_own` builds ``cfg``; None if no class has that name."""
    kind, scope = cfg['type'], cfg.get('_scope_')
    if not isinstance(kind, str):
        return kind
    return MODELS.get(kind) or (MODELS.get(f'{scope}.{kind}') if scope else None)
