"""Reading configs and building their models, without data."""

import math
import os
import re
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from .shipped import configs_of, find_config

SUFFIXES = '.py', '.json', '.yaml', '.yml'
# packages that read configs, whose own lines tell a user nothing
READERS = {'mmengine', 'yaml', *sys.stdlib_module_names}
# Heights and widths of data sets whose pipelines may leave them out.
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
    'NMNIST': (34, 34),
    'Gen1': (240, 304),
}


def read(name: str) -> Config:
    """The config called ``name``: the path of a file, or ``mmsnn::PATH`` (``mmdet::PATH`` ...) for one of a package.

    Raises:
        FileNotFoundError: there is no such config, or none of the name of one of its bases.
        ValueError: it cannot be read; the message names the file, which may be a base, and the line.
    """
    shipped = find_config(name)
    if '::' in name and shipped is None:
        raise FileNotFoundError(f'there is no config {name!r}: {_missing(*name.split("::", 1))}')
    if shipped is None:
        # custom_imports may name modules beside it, or in the working directory, as the imports of a script.
        sys.path += [path for path in (str(Path(name).resolve().parent), os.getcwd()) if path not in sys.path]
        if not Path(name).is_file():
            raise FileNotFoundError(f'there is no config {name!r}{_near_file(Path(name))}')
    try:
        return Config.fromfile(shipped or name)
    # whatever the statements of a config, and its imports, make of it
    except Exception as problem:
        raise _unreadable(str(shipped or name), problem) from problem


def _near_file(path: Path) -> str:
    if path.is_dir():
        return ': it is a folder'
    there = path.parent.iterdir() if path.parent.is_dir() else ()
    stems = {p.stem: p for p in there if p.suffix in SUFFIXES}
    near = [str(stems[stem]) for stem in get_close_matches(path.stem, stems, 3, 0.7)]
    return f'; did you mean {" or ".join(near)}?' if near else ''


def _unreadable(name: str, problem: Exception) -> Exception:
    """An error that tells which file of a config, with its bases, cannot be read, in which line, and why."""
    files, said = [name], str(problem)
    for frame, line in traceback.walk_tb(problem.__traceback__):
        # mmengine reads every file by one of these, a base inside of the one that names it
        if frame.f_code.co_name in ('_file2dict', '_parse_lazy_import'):
            files.append(str(frame.f_locals.get('filename', name)))
        # its statements
        elif frame.f_code.co_name == '<module>' and frame.f_code.co_filename == files[-1]:
            said = f'line {line}: {type(problem).__name__}: {said}'
    files = [file for file in files if Path(file).is_file()]
    where = name if files[-1:] == [name] or not files else f'{name}, in its base {files[-1]}'
    if isinstance(problem, FileNotFoundError) and (found := re.search(r"""["'](.+)["']""", said)):
        return FileNotFoundError(f'{where}: there is no base {found[1]}{_near_file(Path(found[1]))}')
    if isinstance(problem, ImportError) and problem.__cause__ is not None:
        first = problem
        while first.__cause__ or first.__context__:
            first = first.__cause__ or first.__context__
        said = f'custom_imports: {problem.__cause__}: {first}; its folder must lie beside the config or on PYTHONPATH'
    elif frame.f_globals.get('__name__', '').partition('.')[0] not in READERS and not said.startswith('line '):
        # a module that the config imports
        said = f'{frame.f_code.co_filename}, line {line}: {type(problem).__name__}: {said}'
    return ValueError(f'the config {where} cannot be read: {" ".join(said.split()) or type(problem).__name__}')


def _missing(package: str, path: str) -> str:
    """What is wrong with the name of a config of a package, and what is near."""
    folder = configs_of(package)
    if folder is None:
        return f'{package!r} is not an installed package'
    names = [str(found.relative_to(folder)) for found in folder.rglob('*.py')]
    near = [name for name in names if name == f'{path}.py'] or get_close_matches(path, names, 3)
    listed = f"; 'mmsnn list configs' lists those of {package}" if package == 'mmsnn' else ''
    meant = f'; did you mean {" or ".join(f"{package}::{name}" for name in near)}?' if near else listed
    return f'{package} comes without such a file{meant}'


def is_distiller(model: dict) -> bool:
    """Whether a model's config is a Distiller's."""
    return type_name(model) == 'Distiller'


def type_name(cfg: dict) -> str:
    """The name of a config dict's ``type`` without its scope; empty if there is no type."""
    kind = cfg.get('type', '')
    return (kind if isinstance(kind, str) else getattr(kind, '__name__', '')).rpartition('.')[2]


def use_student(cfg: Config) -> Config:
    """Turn a distillation config into that of its student, in place; leave others unchanged. Returns ``cfg``."""
    if is_distiller(cfg.get('model') or {}):
        cfg.model = model_config(cfg)
        hooks = cfg.get('custom_hooks') or []
        cfg.custom_hooks = [hook for hook in hooks if type_name(hook) != 'DistillHook']
    return cfg


def model_config(cfg: Config, student: bool = True) -> ConfigDict:
    """The config of the model with its data preprocessor; ``student`` takes the student's in a distillation config."""
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor')
    model = ConfigDict(cfg.model.student if student and is_distiller(cfg.model) else cfg.model)
    if preprocessor:
        model.setdefault('data_preprocessor', preprocessor)
    return model


def build_model(cfg: Config, student: bool = True) -> nn.Module:
    """Build the model of `model_config`, without initialising it or loading weights."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        return MODELS.build(model_config(cfg, student))


def image_size(cfg: Config) -> tuple[int, int]:
    """Height and width of the images with which the model is tested, including padding.

    The size is taken from the preprocessor's ``size`` (segmentors), from the last crop or resizing of the test pipeline
    (as if every image had its aspect ratio), or from the type of the data set, in this order.

    Raises:
        ValueError: none of them gives a size.
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
            # mmcv's sizes are (width, height).
            size = step.get('crop_size', step.get('scale'))
            return (size, size) if isinstance(size, int) else tuple(size)[::-1]
    return None
