"""The datasets of a config: their files, formats and classes."""

import inspect
import os
import os.path as osp
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from mmengine.registry import DATASETS

from mmsnn.building import type_name
from mmsnn.shipped import is_remote, local

from ..reading import SafePickleHandler, SafeYamlHandler
from .classes import as_metainfo
from .findings import Finding, error, some, unchecked, warning

# Arguments of datasets that name files.
FILES = ('ann_file', 'proposal_file')


@dataclass
class Data:
    """The config of a dataset, without wrappers such as RepeatDataset.

    Args:
        key: its config key.
        cfg: its config.
        part: ``train``, ``val`` or ``test``.
        scope: the config's default scope.
    """

    key: str
    cfg: Mapping
    part: str
    scope: str | None = None

    @cached_property
    def cls(self) -> type | None:
        """The dataset's class; None if it is not registered (building it will raise the proper error)."""
        kind = self.cfg.get('type')
        if not isinstance(kind, str):
            return kind
        with DATASETS.switch_scope_and_registry(self.cfg.get('_scope_', self.scope)) as registry:
            return registry.get(kind)

    @property
    def bases(self) -> dict[str, type]:
        """The dataset's class and its base classes, by name."""
        return {cls.__name__: cls for cls in reversed(getattr(self.cls, '__mro__', ()))}

    def argument(self, name: str, default=None):
        """An argument of the dataset: the config's, or else the default of its class."""
        if name in self.cfg:
            return self.cfg[name]
        for cls in getattr(self.cls, '__mro__', ()):
            parameter = inspect.signature(cls.__init__).parameters.get(name) if '__init__' in vars(cls) else None
            if parameter is not None and parameter.default is not parameter.empty:
                return parameter.default
        return default

    @property
    def root(self) -> str:
        return self.cfg.get('data_root') or ''

    def path(self, name: str) -> str:
        """The path that an argument such as ``ann_file`` or ``data_prefix.img`` names, with the data root; or ''."""
        value = self.cfg
        for part in name.split('.'):
            value = value.get(part) if isinstance(value, Mapping) else None
        return osp.expanduser(osp.join(self.root, value)) if isinstance(value, str) and value else ''

    @cached_property
    def given_classes(self) -> tuple | None:
        """The classes that the config gives as a list or as a file; None if it gives none."""
        value = (self.cfg.get('metainfo') or {}).get('classes') or self.cfg.get('classes')
        if isinstance(value, str) and osp.isfile(osp.expanduser(value)):
            with open(osp.expanduser(value), encoding='utf-8') as file:
                return tuple(line.rstrip('\n\r') for line in file)
        return tuple(value) if isinstance(value, (list, tuple)) else None

    @cached_property
    def classes(self) -> tuple | None:
        """The classes of the config, or else of the dataset's class; None if only the built dataset knows them."""
        if self.given_classes is not None:
            return self.given_classes
        own = (getattr(self.cls, 'METAINFO', None) or {}).get('classes')
        return tuple(own) if isinstance(own, (list, tuple)) else self.folders

    @property
    def are_the_types(self) -> bool:
        """Whether the config gives no classes, so that those of the dataset's class are used."""
        return self.given_classes is None and self.classes is not None and self.classes != self.folders

    @property
    def folder(self) -> str:
        """The folder of the images of a classification dataset."""
        return self.path('data_prefix.img_path') or self.path('data_prefix') or self.path('split') or self.root

    @property
    def as_many_as_folders(self) -> bool:
        """Whether there is no doubt about the number of classes: it is that of the folders, if these are classes."""
        return len(self.folders or self.classes or ()) == len(self.classes or ())

    @cached_property
    def folders(self) -> tuple | None:
        """The classes of a dataset that takes its folders, in alphabetical order, as classes; None for others."""
        if 'CustomDataset' not in self.bases or not self.argument('with_label', True):
            return None
        listed = osp.join(self.root, 'meta', f'{self.cfg.get("split")}.txt')
        if self.cfg.get('ann_file') or (self.cfg.get('split') and osp.exists(listed)) or not osp.isdir(self.folder):
            return None
        with os.scandir(self.folder) as entries:
            return tuple(sorted(entry.name for entry in entries if entry.is_dir()))

    @property
    def pipeline(self) -> list[Mapping]:
        return [step for step in self.cfg.get('pipeline') or [] if isinstance(step, Mapping)]

    def step(self, name: str) -> Mapping | None:
        """The first step of type ``name`` in the pipeline; None without one."""
        return next((step for step in self.pipeline if type_name(step) == name), None)


def gather(cfg: Mapping, parts: tuple[str, ...]) -> list[Data]:
    """The datasets of a config, without wrappers such as RepeatDataset and ConcatDataset."""
    datasets = []
    for part in parts:
        loader = cfg.get(f'{part}_dataloader')
        if isinstance(loader, Mapping) and isinstance(loader.get('dataset'), Mapping):
            for key, dataset in _innermost(loader['dataset'], f'{part}_dataloader.dataset'):
                datasets.append(Data(key, dataset, part, cfg.get('default_scope')))
    return datasets


def evaluators(cfg: Mapping, part: str) -> list[tuple[str, Mapping]]:
    """The metrics of ``part`` with their config keys."""
    evaluator = cfg.get(f'{part}_evaluator')
    if isinstance(evaluator, Mapping) and isinstance(evaluator.get('metrics'), (list, tuple)):
        key, metrics = f'{part}_evaluator.metrics', evaluator['metrics']
    else:
        key, metrics = f'{part}_evaluator', evaluator
    if not isinstance(metrics, (list, tuple)):
        return [(key, metrics)] if isinstance(metrics, Mapping) else []
    return [(f'{key}.{i}', metric) for i, metric in enumerate(metrics) if isinstance(metric, Mapping)]


def is_local(cfg: Mapping) -> bool:
    """Whether a dataset or metric reads files of this machine."""
    backend = cfg.get('backend_args') or {}
    return backend.get('backend', 'local') == 'local'


def check_paths(data: Data) -> Iterator[Finding]:
    """Check that the files and folders of a dataset exist, except for remote files and those that it downloads."""
    if data.argument('download', False) is True:
        yield unchecked(data.key, f'{type_name(data.cfg)} downloads its files itself')
        return
    if not is_local(data.cfg):
        yield unchecked(data.key, 'its files are not on this machine')
        return
    prefixes = data.cfg.get('data_prefix') or {}
    named = {name: data.cfg.get(name) for name in FILES}
    if isinstance(prefixes, str):
        named['data_prefix'] = prefixes
    else:
        named |= {f'data_prefix.{name}': prefix for name, prefix in prefixes.items()}
    named = {name: path for name, path in named.items() if isinstance(path, str) and path}
    # The data root does not matter if all paths are absolute.
    if not named or not all(osp.isabs(path) for path in named.values()):
        missing = list(check_path(f'{data.key}.data_root', data.root, 'folder'))
        yield from missing
        if missing:
            return
    for name, path in named.items():
        where = ', absolute or below data_root' if data.root else ''
        what = 'file' if name in FILES else 'folder'
        yield from check_path(f'{data.key}.{name}', osp.join(data.root, path), what, where)


def check_formats(data: Data) -> Iterator[Finding]:
    """Check that files in formats that may contain code contain only data."""
    handlers = dict.fromkeys(('.pkl', '.pickle'), SafePickleHandler) | dict.fromkeys(('.yaml', '.yml'), SafeYamlHandler)
    for name in FILES:
        path = data.path(name)
        handler = handlers.get(osp.splitext(path)[1])
        if handler is not None and osp.isfile(path):
            try:
                handler().load_from_path(path)
            except ValueError as problem:
                yield error(f'{data.key}.{name}', f'{path}: {problem}')


def check_path(key: str, path, what: str, where: str = '') -> Iterator[Finding]:
    """An error unless ``path`` exists; empty and remote paths are accepted."""
    if not isinstance(path, str) or not path or is_remote(path):
        return
    try:
        if osp.exists(osp.expanduser(local(path))):
            return
    except FileNotFoundError as problem:
        yield error(key, str(problem), FileNotFoundError)
        return
    looked = '' if osp.isabs(path) else f' (below {osp.abspath(".")})'
    yield error(
        key,
        f'there is no {what} {path!r}{looked}. Put the data there, or point the config to it: '
        f'--cfg-options {key}={what.upper()}{where}',
        FileNotFoundError,
    )


def missing_files(paths: Iterable[str]) -> list[str]:
    """The ``paths`` that do not exist; every folder is listed once."""
    listed, missing = {}, []
    for path in paths:
        folder, name = osp.split(osp.expanduser(path))
        if folder not in listed:
            listed[folder] = set(os.listdir(folder or '.')) if osp.isdir(folder or '.') else set()
        if name not in listed[folder]:
            missing.append(path)
    return missing


def check_class_names(data: Data) -> Iterator[Finding]:
    """Check that the classes are given in a form that the libraries read."""
    metainfo = data.cfg.get('metainfo') or {}
    key, value = f'{data.key}.metainfo.classes', metainfo.get('classes')
    if isinstance(value, str) and data.given_classes is None:
        yield error(key, f'{value!r} is a string and not a file of classes: write a tuple, for one class ({value!r},)')
    for wrong in ('CLASSES', 'class_names', 'names'):
        if wrong in metainfo and 'classes' not in metainfo:
            yield warning(f'{data.key}.metainfo.{wrong}', 'this key has no effect, write metainfo=dict(classes=(...))')
    names = data.given_classes or ()
    if len(set(names)) < len(names):
        double = sorted({name for name in names if names.count(name) > 1})
        yield error(key, f'{some(double)} {"is" if len(double) == 1 else "are"} listed more than once')


def check_same_classes(data: list[Data]) -> Iterator[Finding]:
    """Check that validation and test number the classes in the same way as training."""
    train = next((one for one in data if one.part == 'train' and one.classes and one.as_many_as_folders), None)
    for one in data if train is not None else ():
        if one.part == 'train' or one.classes is None or one.classes == train.classes:
            continue
        if one.classes == train.folders and sorted(train.classes) == sorted(train.folders):
            # the training's own list has another order than its folders, and the finding on that gives the right one
            continue
        text = f'{len(one.classes)} classes ({some(one.classes)}), but {train.key} has {len(train.classes)} '
        text += f'({some(train.classes)}). '
        i = next((i for i, (a, b) in enumerate(zip(train.classes, one.classes)) if a != b), None)
        if i is not None:
            text += f'Label {i} is {train.classes[i]!r} in training and {one.classes[i]!r} here. '
        by_folder = [d.given_classes is None and d.folders == d.classes for d in (one, train)]
        if all(by_folder):
            text += f'Put the same folders into {one.folder} and {train.folder}'
        elif by_folder[0] and one.folders == train.folders:
            text += f'Give it those of the training: {as_metainfo(train.classes)}'
        else:
            text += 'Give both the same metainfo.classes in the same order'
        reduced = any(d.argument('reduce_zero_label', False) for d in (one, train))
        yield (warning if reduced else error)(f'{one.key}.metainfo.classes', text)


def _innermost(dataset: Mapping, key: str) -> Iterator[tuple[str, Mapping]]:
    """The datasets inside wrappers such as RepeatDataset and ConcatDataset, with their keys."""
    if isinstance(dataset.get('dataset'), Mapping):
        yield from _innermost(dataset['dataset'], f'{key}.dataset')
    elif isinstance(dataset.get('datasets'), (list, tuple)):
        for i, one in enumerate(dataset['datasets']):
            if isinstance(one, Mapping):
                yield from _innermost(one, f'{key}.datasets.{i}')
    else:
        yield key, dataset
