"""Checks of classification datasets whose labels come from folders or from a list."""

import json
import os
import os.path as osp
from collections import Counter
from collections.abc import Iterator

from PIL import Image

from .classes import as_metainfo
from .data import Data, missing_files
from .findings import Finding, error, note, some, warning

# Endings of files that are images, for any reader.
IMAGES = frozenset(Image.registered_extensions())
# Stands for the endings that the dataset reads.
READ = 'read'


def is_list(data: Data) -> bool:
    """Whether a file lists the images of a classification dataset with their labels."""
    base = data.bases.get('BaseDataset')
    own = data.bases.get('CustomDataset', base)
    listed = osp.isfile(data.path('ann_file')) and data.argument('with_label', True)
    return bool(
        listed and own and own.__module__.startswith('mmpretrain.') and data.cls.load_data_list is own.load_data_list
    )


def check_folders(data: Data) -> Iterator[Finding]:
    """Findings about a dataset whose classes are its folders, in alphabetical order."""
    folder, names = data.folder, data.folders
    key = f'{data.key}.data_prefix' if data.cfg.get('data_prefix') else f'{data.key}.data_root'
    if not names:
        yield error(key, f'{folder} contains no folders, which would be the classes: give each class its own folder')
        return
    odd = [name for name in names if name.startswith(('.', '__'))]
    if odd:
        yield warning(key, f'{some(odd)} in {folder} counts as a class and shifts the labels of others: delete it')
    extensions = tuple(str(e).lower() for e in data.argument('extensions', ('.jpg', '.jpeg', '.png')))
    found = {name: _endings(osp.join(folder, name), extensions) for name in names}
    empty = [name for name in names if not found[name][READ]]
    if empty:
        finding = error if len(empty) == len(names) else warning
        yield finding(f'{data.key}.extensions', f'no file in {some(empty)} of {folder} ends in {", ".join(extensions)}')
    total = sum(found.values(), Counter())
    left = Counter({ending: n for ending, n in total.items() if ending in IMAGES})
    if left and total[READ]:
        endings = ', '.join(f'{n} in {ending}' for ending, n in left.most_common(3))
        yield warning(
            f'{data.key}.extensions',
            f'{left.total()} of {left.total() + total[READ]} images in {folder} are left out ({endings}). To read '
            f'them, set extensions={(*extensions, *sorted(left))}',
        )
    yield from _check_names(data, folder, names)
    if len(empty) < len(names):
        yield note(key, f'{len(names)} classes by folder in {folder}: {some(names)}')


def _check_names(data: Data, folder: str, names: tuple) -> Iterator[Finding]:
    key = f'{data.key}.metainfo.classes' if data.given_classes else data.key
    classes = data.classes
    if classes is None or classes == names:
        return
    if len(classes) != len(names):
        text = f'{len(classes)} classes ({some(classes)})'
        if data.given_classes:
            remedy = f'. Write {as_metainfo(names)} and num_classes={len(names)} in the head, or move folders away'
        else:
            text, remedy = f'{text}, those of {data.cls.__name__}', '; for your own data, use CustomDataset'
        yield error(key, f'{text}, but {folder} has {len(names)} folders ({some(names)}){remedy}')
        return
    moved = next((i for i, name in enumerate(names) if name in classes and classes[i] != name), None)
    if moved is not None:
        yield error(
            key,
            f'folders are numbered in alphabetical order, so that images of {names[moved]!r} in {folder} would be '
            f'called {classes[moved]!r}. Write {as_metainfo(names)}',
        )


def _endings(folder: str, extensions: tuple) -> Counter:
    """Of the files in a folder and its subfolders, how many are `READ`, and how many others have each ending."""
    found = Counter()
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name.lower()
            if entry.is_dir():
                found += _endings(entry.path, extensions)
            else:
                found[READ if name.endswith(extensions) else osp.splitext(name)[1]] += 1
    return found


def check_list(data: Data, number: int | None) -> Iterator[Finding]:
    """Findings about a file of paths and labels, or a file in mmengine's JSON format.

    Args:
        data: the dataset.
        number: number of classes; None if it is unknown.
    """
    path, key = data.path('ann_file'), f'{data.key}.ann_file'
    with open(path, encoding='utf-8') as file:
        text = file.read()
    if path.endswith('.json'):
        rows = [(row.get('img_path'), row.get('gt_label')) for row in json.loads(text)['data_list']]
    else:
        # mmpretrain splits a line at its last blank.
        rows = [tuple(line.strip().rsplit(' ', 1)) for line in text.splitlines()]
    if not rows:
        yield error(key, f'{path} lists no images')
        return
    wrong = [(i, row) for i, row in enumerate(rows, 1) if len(row) != 2 or not _is_number(row[1])]
    if wrong:
        line, row = wrong[0]
        yield error(
            key,
            f'{path}: {len(wrong)} of {len(rows)} lines do not end in the number of a class, the first is line {line}, '
            f'{" ".join(map(str, row))!r}: write PATH NUMBER',
        )
        return
    labels = {int(label) for row in rows for label in _labels(row[1])}
    if number is not None and (min(labels) < 0 or max(labels) >= number):
        text = f'{path} has labels from {min(labels)} to {max(labels)}, but {number} classes are 0 to {number - 1}'
        counted = ': count from 0' if min(labels) == 1 and max(labels) == number else ''
        yield error(key, text + counted)
        return
    missing = missing_files(osp.join(data.folder, str(name)) for name, _ in rows)
    if missing:
        yield error(
            key,
            f'{len(missing)} of the {len(rows)} images that {path} lists are not there, the first is {missing[0]}: '
            'paths are below data_prefix',
            FileNotFoundError,
        )
        return
    yield note(key, f'{path}: {len(rows)} images, labels {min(labels)} to {max(labels)}')


def _labels(label) -> list:
    return label if isinstance(label, list) else [label]


def _is_number(label) -> bool:
    try:
        return bool(_labels(label)) and all(int(one) == float(one) for one in _labels(label))
    except (TypeError, ValueError):
        return False
