"""A config's file, its model, and the size of its images, without its data."""

import math

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from .shipped import find_config

# H, W of data sets whose pipelines need not say it
SIZES = {
    'MNIST': (28, 28),
    'FashionMNIST': (28, 28),
    'CIFAR10': (32, 32),
    'CIFAR100': (32, 32),
    'CIFAR10Archive': (32, 32),
    'CIFAR100Archive': (32, 32),
    'TinyImageNet': (64, 64),
    'CIFAR10DVS': (128, 128),
    'DVS128Gesture': (128, 128),
    'NCaltech101': (180, 240),
    'Gen1': (240, 304),
}


def read(name: str) -> Config:
    """The config called ``name``: a file, or ``mmsnn::PATH`` for one that came with mmsnn (``mmdet::PATH`` ...).

    Raises:
        FileNotFoundError: there is none.
    """
    shipped = find_config(name)
    if '::' in name and shipped is None:
        raise FileNotFoundError(f'there is no config {name!r}: the part before :: must be an installed package')
    return Config.fromfile(shipped or name)


def is_distiller(model: dict) -> bool:
    """Whether a model's config is a Distiller's."""
    return type_name(model) == 'Distiller'


def type_name(cfg: dict) -> str:
    """What a config dict's ``type`` is called, without its scope; empty where there is none."""
    kind = cfg.get('type', '')
    return (kind if isinstance(kind, str) else getattr(kind, '__name__', '')).rpartition('.')[2]


def use_student(cfg: Config) -> Config:
    """Make of a distillation config that of its student, in place; any other stays as it is. Returns ``cfg``."""
    if is_distiller(cfg.get('model') or {}):
        cfg.model = model_config(cfg)
        hooks = cfg.get('custom_hooks') or []
        cfg.custom_hooks = [hook for hook in hooks if type_name(hook) != 'DistillHook']
    return cfg


def model_config(cfg: Config, student: bool = True) -> ConfigDict:
    """The config of the model, its data preprocessor included; of a distillation config the student's, if wanted."""
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor')
    model = ConfigDict(cfg.model.student if student and is_distiller(cfg.model) else cfg.model)
    if preprocessor:
        model.setdefault('data_preprocessor', preprocessor)
    return model


def build_model(cfg: Config, student: bool = True) -> nn.Module:
    """The model of `model_config`, not initialised and without weights."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        return MODELS.build(model_config(cfg, student))


def image_size(cfg: Config) -> tuple[int, int]:
    """Height and width of the images that the model is tested with, padding included.

    It is the preprocessor's ``size`` (segmentors), or else that of the last crop or resizing of the test pipeline, as
    if every image had its aspect ratio, or else the data set's own.

    Raises:
        ValueError: none of these is known.
    """
    preprocessor = model_config(cfg).get('data_preprocessor') or {}
    if preprocessor.get('size'):
        return tuple(preprocessor['size'])
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    size = _last_size(dataset.get('pipeline') or []) or SIZES.get(type_name(dataset))
    if size is None:
        raise ValueError(
            'test_dataloader.dataset: neither its pipeline nor its type tells the size of the images: give --shape H W'
        )
    divisor = preprocessor.get('pad_size_divisor', 1)
    return tuple(math.ceil(side / divisor) * divisor for side in size)


def _last_size(pipeline: list[dict]) -> tuple[int, int] | None:
    for step in reversed(pipeline):
        if type_name(step) == 'EventResize':
            size = step['size']
            return (size, size) if isinstance(size, int) else tuple(size)
        if type_name(step) in ('CenterCrop', 'Resize'):
            # mmcv's are width, height
            size = step.get('crop_size', step.get('scale'))
            return (size, size) if isinstance(size, int) else tuple(size)[::-1]
    return None
