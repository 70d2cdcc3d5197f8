"""Patches of OpenMMLab's libraries, which `mmsnn.import_hook` applies when their modules are imported.

Each patch is a function of the imported module. Heavy imports happen inside of the functions, only when needed.
"""

import copy
import functools
import importlib.util
import inspect
import os
import re
import warnings
from pathlib import Path

from .shipped import find_config

CONFIG_FILES = ('.py', '.json', '.yaml', '.yml')

# Arguments of mmsnn's ResNets that the names of mmdet's and mmseg's variants imply.
RESNET_VARIANTS = {'ResNetV1c': dict(deep_stem=True), 'ResNetV1d': dict(deep_stem=True, avg_down=True)}
RESNETS = ('SEWResNet', 'SpikingResNet')


def name_packages(utils) -> None:
    """Let ``_base_ = 'mmseg::...'`` and ``'mmsnn::...'`` find their configs (mmengine.config.utils).

    mmengine looks for a distribution called mmsegmentation, while OneDL's has another name, and it does not know mmsnn.
    It finds both by their import names.
    """
    utils.MODULE2PACKAGE.update(mmseg='mmseg', mmsnn='mmsnn')


def find_bases(config) -> None:
    """Make a base ``mmsnn::PATH`` equivalent to the path of its file (mmengine.config.config).

    mmengine adds ``_scope_='mmsnn'`` to everything from such a base, and then looks for all types in mmsnn's
    registries. But mmsnn's configs are configs of mmdet, mmseg or mmpretrain, which they name as ``default_scope``, and
    they write mmsnn's own types in full: ``type='mmsnn.SEWResNet'``.

    This also saves seconds, because mmengine reads all metafiles of a package before it looks for a base by its path.
    """
    find = config.Config._get_cfg_path

    @functools.wraps(find)
    def find_base(cfg_path, filename):
        shipped = find_config(cfg_path)
        path, scope = (str(shipped), cfg_path.partition('::')[0]) if shipped else find(cfg_path, filename)
        return path, None if scope == 'mmsnn' else scope

    config.Config._get_cfg_path = staticmethod(find_base)


def keep_variants(config) -> None:
    """Make a spiking ResNet that replaces a ResNetV1c or V1d in a config keep its shape (mmengine.config.config).

    The names of these two imply ``deep_stem=True`` (and ``avg_down=True``), which would be lost when another ``type``
    replaces them. Keys that the child config sets take precedence, and ``_delete_=True`` inherits nothing.
    """
    merge = config.Config._merge_a_into_b

    @functools.wraps(merge)
    def merge_and_keep(a, b, allow_list_keys=False):
        merged = merge(a, b, allow_list_keys)
        if isinstance(a, dict) and isinstance(b, dict) and _name(a) in RESNETS:
            for key, value in RESNET_VARIANTS.get(_name(b), {}).items():
                merged.setdefault(key, value)
        return merged

    config.Config._merge_a_into_b = staticmethod(merge_and_keep)


def _name(cfg: dict) -> str:
    kind = cfg.get('type')
    return (kind if isinstance(kind, str) else getattr(kind, '__name__', '')).rpartition('.')[2]


def build_own_models(hub) -> None:
    """Let ``get_model('mmsnn::PATH')`` build in the scope that the config declares (mmengine.hub.hub)."""
    get_model = hub.get_model

    @functools.wraps(get_model)
    def get(cfg_path, pretrained=False, **kwargs):
        if not cfg_path.startswith('mmsnn::') or pretrained:
            return get_model(cfg_path, pretrained, **kwargs)
        from mmsnn.building import build_model

        cfg = hub.get_config(cfg_path)
        for key, value in kwargs.items():
            cfg.model.setdefault(key, value)
        return build_model(cfg)

    hub.get_model = get


def infer_with_students(infer) -> None:
    """Let an inferencer that is given a distillation config run its student (mmengine.infer.infer)."""
    infer.BaseInferencer.__init__ = for_student(infer.BaseInferencer.__init__)


def read_students(apis) -> None:
    """Let ``init_detector``, ``init_model`` and mmpretrain's ``get_model`` run the student of a distillation config."""
    for name in ('init_detector', 'init_model', 'get_model'):
        if hasattr(apis, name):
            setattr(apis, name, for_student(getattr(apis, name)))


def tell_classes(datasets) -> None:
    """Let mmseg's confusion_matrix.py and browse_dataset.py find classes that a config names.

    They read ``METAINFO`` of the class, which is empty if only the config has it (mmseg.datasets.basesegdataset).
    """
    initialise = datasets.BaseSegDataset.__init__

    @functools.wraps(initialise)
    def init(self, *args, **kwargs):
        initialise(self, *args, **kwargs)
        if not type(self).METAINFO:
            self.METAINFO = self.metainfo

    datasets.BaseSegDataset.__init__ = init


def leave_out_multimodal(dependency) -> None:
    """Let mmpretrain be imported beside transformers 5, without its multimodal models (mmpretrain.utils.dependency).

    They import functions that transformers 5 no longer has, and mmpretrain takes any newer version for sufficient. Each
    of these models then says, when it is built, what it needs.
    """
    spec = importlib.util.find_spec('transformers') if dependency.WITH_MULTIMODAL else None
    if spec and spec.origin:
        # the import of transformers takes seconds
        file = Path(spec.origin).with_name('pytorch_utils.py')
        dependency.WITH_MULTIMODAL = file.exists() and 'def find_pruneable_heads_and_indices' in file.read_text()


def visualize_inherited(visualizer) -> None:
    """Let mmpretrain's browse_dataset.py take an inherited visualizer (mmpretrain.visualization.visualizer).

    It passes the whole config as arguments, including the ``_scope_`` that mmengine adds.
    """
    cls = visualizer.UniversalVisualizer
    initialise = cls.__init__

    @functools.wraps(initialise)
    def init(self, *args, _scope_=None, **kwargs):
        initialise(self, *args, **kwargs)

    cls.__init__ = init


def for_student(function):
    """``function`` with an argument ``config`` or ``model`` that may be a distillation config or ``mmsnn::PATH``."""
    signature = inspect.signature(function)
    name = 'config' if 'config' in signature.parameters else 'model'

    @functools.wraps(function)
    def call(*args, **kwargs):
        given = signature.bind(*args, **kwargs)
        if name in given.arguments:
            given.arguments[name] = student_of(given.arguments[name])
        return function(*given.args, **given.kwargs)

    return call


def student_of(config):
    """The student's config of a distillation config, which may be a file; anything else is returned unchanged."""
    from mmengine.config import Config, ConfigDict

    from mmsnn.building import read, use_student

    is_name = isinstance(config, (str, os.PathLike))
    if is_name and ('::' in str(config) or (Path(config).suffix in CONFIG_FILES and Path(config).is_file())):
        config = read(str(config))
    elif isinstance(config, (Config, ConfigDict)):
        # The caller's config is not changed.
        config = copy.deepcopy(config)
    return use_student(config) if isinstance(config, (Config, ConfigDict)) else config


def warn_of_misfit_torchvision(mmengine=None) -> None:
    """Warn if torch is a CPU build and torchvision a CUDA build, because the import then fails unclearly."""
    import torch

    if torch.version.cuda is None and '+cu' in torchvision_version():
        warnings.warn(torchvision_hint(), stacklevel=2)


def torchvision_version() -> str:
    """Version of torchvision (``0.26.0+cu130``), 'none' or 'unknown'; read from a file, since the import may fail."""
    spec = importlib.util.find_spec('torchvision')
    if spec is None:
        return 'none'
    file = Path(spec.origin).with_name('version.py')
    match = re.search(r"__version__ = '(.+)'", file.read_text()) if file.exists() else None
    return match[1] if match else 'unknown'


def torchvision_hint() -> str:
    """The remedy if torchvision does not fit torch ("operator torchvision::nms does not exist")."""
    import torch

    return (
        f'torch {torch.__version__} and torchvision {torchvision_version()} do not work together: they must belong to '
        'the same release and build (both +cpu, or the same +cu...). Uninstall both, then install both by one '
        'command from one index: pip install -c constraints.txt torch torchvision'
    )
