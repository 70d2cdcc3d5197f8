"""Bad input, found before the first iteration and named by its config key."""

import inspect
import json
import os.path as osp
from collections.abc import Iterator, Mapping

from mmengine.registry import DATASETS

COCO_LISTS = ('images', 'annotations', 'categories')


def check_data(cfg: Mapping, parts: tuple[str, ...] = ('train', 'val', 'test')) -> None:
    """Check that the files and folders which a config's datasets and evaluators name are there.

    Datasets are found through their wrappers. Left to the dataset: those that download themselves, remote storage, and
    whatever is given as an object instead of a config.

    Args:
        cfg: a whole config.
        parts: which of ``train``, ``val`` and ``test`` to check.

    Raises:
        FileNotFoundError: a data root, an annotation file or a folder of images is missing.
        ValueError: the annotation file of a COCO dataset is not in COCO format, or names none of the dataset's classes.
    """
    for part in parts:
        loader = cfg.get(f'{part}_dataloader')
        if isinstance(loader, Mapping) and isinstance(loader.get('dataset'), Mapping):
            for key, dataset in _innermost(loader['dataset'], f'{part}_dataloader.dataset'):
                _check_dataset(key, dataset, _find_class(dataset, cfg.get('default_scope')))
        evaluator = cfg.get(f'{part}_evaluator')
        several = isinstance(evaluator, (list, tuple))
        for i, metric in enumerate(evaluator if several else [evaluator]):
            if isinstance(metric, Mapping) and _is_local(metric):
                key = f'{part}_evaluator.{i}.ann_file' if several else f'{part}_evaluator.ann_file'
                _check_path(key, metric.get('ann_file'), 'file')


def check_coco(path: str, key: str, *, classes=None, annotated: bool = True) -> None:
    """Check the outline of a COCO annotation file.

    Args:
        path: the file.
        key: config key that names it, for the message.
        classes: names of which at least one must be among the file's categories.
        annotated: whether the file must have annotations.

    Raises:
        ValueError: no JSON, a list is missing, there are no images, or no category is among ``classes``.
    """
    wanted = 'expected a COCO annotation file, a JSON object with the lists images, annotations and categories'
    try:
        with open(path, 'rb') as file:
            content = json.load(file)
    # JSON errors and wrong encodings are ValueErrors
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{key}: {path} is no JSON ({error}); {wanted}') from None
    if not isinstance(content, dict):
        raise ValueError(f'{key}: {path} holds a JSON {type(content).__name__}; {wanted}')
    needed = COCO_LISTS if annotated else ('images', 'categories')
    missing = [name for name in needed if not isinstance(content.get(name), list)]
    if missing:
        raise ValueError(f'{key}: {path} has no list {" and no list ".join(missing)}; {wanted}')
    if not content['images']:
        raise ValueError(f'{key}: {path} lists no images')
    names = [c.get('name') for c in content['categories'] if isinstance(c, dict)]
    if classes and not set(classes) & set(names):
        shown = ', '.join(map(str, names[:5])) + (' ...' if len(names) > 5 else '')
        raise ValueError(
            f'{key}: none of the categories of {path} ({shown}) is a class of the dataset ({", ".join(classes[:5])} '
            f'...): set {key.rpartition(".")[0]}.metainfo.classes to the names in the file'
        )


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


def _find_class(dataset: Mapping, scope: str | None) -> type | None:
    """The dataset's class; None where it is not registered, which building it reports better."""
    kind = dataset.get('type')
    if not isinstance(kind, str):
        return kind
    with DATASETS.switch_scope_and_registry(dataset.get('_scope_', scope)) as registry:
        return registry.get(kind)


def _is_local(cfg: Mapping) -> bool:
    backend = cfg.get('backend_args') or {}
    return backend.get('backend', 'local') == 'local'


def _check_dataset(key: str, dataset: Mapping, cls: type | None) -> None:
    takes = inspect.signature(cls).parameters if cls is not None else {}
    downloads = dataset.get('download', getattr(takes.get('download'), 'default', False))
    if downloads is True or not _is_local(dataset):
        return
    root = dataset.get('data_root') or ''
    prefixes = dataset.get('data_prefix') or {}
    named = {'ann_file': dataset.get('ann_file')}
    if isinstance(prefixes, str):
        named['data_prefix'] = prefixes
    else:
        named |= {f'data_prefix.{name}': prefix for name, prefix in prefixes.items()}
    named = {name: path for name, path in named.items() if isinstance(path, str) and path}
    # beside absolute paths alone, a data root is of no consequence
    if not named or not all(osp.isabs(path) for path in named.values()):
        _check_path(f'{key}.data_root', root, 'folder')
    for name, path in named.items():
        where = ', absolute or below data_root' if root else ''
        _check_path(f'{key}.{name}', osp.join(root, path), 'file' if name == 'ann_file' else 'folder', where)
    path = osp.expanduser(osp.join(root, named.get('ann_file', '')))
    # mmdet's COCO family, panoptic and LVIS included
    if hasattr(cls, 'COCOAPI') and osp.isfile(path):
        classes = (dataset.get('metainfo') or {}).get('classes') or getattr(cls, 'METAINFO', {}).get('classes')
        # a string names a file of classes
        classes = None if isinstance(classes, str) else classes
        check_coco(path, f'{key}.ann_file', classes=classes, annotated=not key.startswith('test_'))


def _check_path(key: str, path, what: str, where: str = '') -> None:
    """FileNotFoundError unless there is something at ``path``; empty and remote paths pass."""
    if not isinstance(path, str) or not path or '://' in path or osp.exists(osp.expanduser(path)):
        return
    looked = '' if osp.isabs(path) else f' (below {osp.abspath(".")})'
    raise FileNotFoundError(
        f'{key}: there is no {what} {path!r}{looked}. Put the data there, or point the config to it: '
        f'--cfg-options {key}={what.upper()}{where}'
    )
