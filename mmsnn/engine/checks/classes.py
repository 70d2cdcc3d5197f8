"""Comparing the classes of a config with those in annotation files."""

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence

from .annotations import Reader
from .findings import Finding, error, some

# Largest number of classes that a message lists.
SHOWN = 100


def check_categories(path: str, categories: list, reader: Reader) -> Iterator[Finding]:
    """Check that each label has the name in the config that its boxes have in the COCO file.

    mmdet numbers labels in the order of the file's categories, but names them in the order of the config's classes.
    """
    wrong = [i for i, c in enumerate(categories) if not isinstance(c, dict) or not {'id', 'name'} <= c.keys()]
    if wrong:
        yield error(
            reader.key, f'{path}: categories[{wrong[0]}] is {categories[wrong[0]]!r}, expected dict(id=1, name=...)'
        )
        return
    if not categories:
        yield error(reader.key, f'{path} lists no categories')
        return
    names = [category['name'] for category in categories]
    for what in ('id', 'name') if reader.by_name else ('id',):
        counts = Counter(map(repr, (category[what] for category in categories)))
        double = [value for value, count in counts.items() if count > 1]
        if double:
            yield error(reader.key, f'{path}: several categories have the {what} {", ".join(double[:5])}')
            return
    if reader.classes is None or not reader.by_name:
        return
    classes, key = list(reader.classes), f'{reader.owner}.metainfo.classes'
    known = [name for name in names if name in set(classes)]
    if known == classes:
        return
    lacking = [name for name in classes if name not in names]
    spare = [name for name in names if name not in classes]
    nearest = {name: near for name in lacking if (near := closest(name, spare))}
    if reader.default:
        wanted = names
        text = (
            f'they are not given, so that the {len(classes)} of {reader.default} are taken, of which {path} has '
            f'{len(known)}; its categories are {some(names)}'
        )
    elif lacking:
        right = set(known) | set(nearest.values())
        wanted = [name for name in names if name in right] if len(nearest) == len(lacking) else names
        text = f'{some(lacking)} {"is no category" if len(lacking) == 1 else "are no categories"} of {path}'
        if nearest:
            text += f' (did you mean {some(nearest.values())}?)'
        else:
            text += f', which has {some(names)}'
    else:
        wanted = known
        i = next(i for i, (a, b) in enumerate(zip(known, classes)) if a != b)
        text = (
            f'they are in another order than the categories of {path}, by which mmdet numbers the labels: boxes of '
            f'{known[i]!r} would be called {classes[i]!r}'
        )
    text += f'. Write {as_metainfo(wanted)}'
    if len(wanted) != len(classes):
        text += f' and num_classes={len(wanted)} in the heads'
    yield error(key, text)


def closest(name, among: Sequence) -> str | None:
    """The name in ``among`` of which ``name`` may be a misspelling; None if there is none."""
    folded = {str(other).strip().casefold(): other for other in among}
    near = difflib.get_close_matches(str(name).strip().casefold(), folded, n=1)
    return folded[near[0]] if near else None


def as_metainfo(names: Sequence) -> str:
    """The classes in the form in which a config has to give them."""
    if len(names) > SHOWN:
        return f'metainfo=dict(classes=...) with all {len(names)} names, the first being {some(names)}'
    return f'metainfo=dict(classes={tuple(names)!r})'
