"""Checks of COCO annotation files, in the way mmdet reads them."""

import gc
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from mmsnn.engine.images import image_size

from .annotations import Annotations, Reader
from .classes import check_categories
from .data import missing_files
from .findings import Finding, error, some, warning

WANTED = 'expected a COCO annotation file, a JSON object with the lists images, annotations and categories'
# Number of images whose size is compared with the file.
LOOKED_AT = 16
# Size of a file in bytes from which on polygons are not read.
LARGE = 1 << 26
# Largest number of pixels that OpenCV decodes.
PIXELS = 1 << 30
POLYGONS = re.compile(r'\[\[[-+.,eE\d\s]*\](?:\s*,\s*\[[-+.,eE\d\s]*\])*\]')


@contextmanager
def no_collection():
    """Context without garbage collection, which would repeatedly visit the millions of objects of a large file."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def load(path: str):
    """The content of a JSON file; the last one is cached, because datasets and evaluators often read the same file.

    Raises:
        ValueError: the file is not JSON.
    """
    stat = os.stat(path)
    return _load(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1)
def _load(path: str, _, size: int):
    with open(path, encoding='utf-8') as file:
        text = file.read()
    # Polygons make up most of a large file and take half the time of reading it.
    return json.loads(POLYGONS.sub('[[]]', text) if size > LARGE else text)


def image_ids(path: str) -> set:
    """The ids of the images in a file; empty if it is not an annotation file."""
    content = load(path)
    images = content.get('images') if isinstance(content, dict) else None
    return {image.get('id') for image in images or [] if isinstance(image, dict)}


def forget() -> None:
    """Free the file that `load` keeps."""
    _load.cache_clear()


def check_coco(path: str, reader: Reader) -> Iterator[Finding]:
    """Findings about the COCO annotation file ``path``: its outline, categories, images and annotations."""
    with no_collection():
        try:
            content = load(path)
        # JSON errors and wrong encodings are ValueErrors.
        except (ValueError, RecursionError) as problem:
            yield error(reader.key, f'{path} is no JSON ({problem}); {WANTED}')
            return
        problem = _outline(content, reader)
        if problem:
            yield error(reader.key, f'{path} {problem}')
            return
        categories = list(check_categories(path, content['categories'], reader))
        yield from categories
        images, sizes = _images(path, content['images'], reader)
        yield from images
        annotations = content.get('annotations')
        if any(finding.key == reader.key for finding in categories):
            return
        if annotations is None or not reader.boxes or any(f.level == 'error' for f in images):
            return
        named = reader.classes and reader.by_name and not any(f.level == 'error' for f in categories)
        ids = {c['id']: c['name'] for c in content['categories'] if not named or c['name'] in reader.classes}
        walk = Annotations(path, reader, sizes, ids)
        yield from walk.check(annotations)
        yield from _files(path, content['images'], reader, walk.used)


def _outline(content, reader: Reader) -> str | None:
    if not isinstance(content, dict):
        return f'holds a JSON {type(content).__name__}; {WANTED}'
    needed = ['images', 'annotations', 'categories'] if reader.annotated else ['images', 'categories']
    missing = [name for name in needed if not isinstance(content.get(name), list)]
    if missing:
        return f'has no list {" and no list ".join(missing)}; {WANTED}'
    if not content['images']:
        return 'lists no images'
    if not isinstance(content.get('annotations', []), list):
        return f'has annotations that are no list; {WANTED}'
    return None


def _images(path: str, images: list, reader: Reader) -> tuple[list[Finding], dict]:
    """Findings about the list of images, and their sizes (width, height) by id."""
    sizes, names, wrong, double = {}, {}, {}, []
    for index, image in enumerate(images):
        try:
            # An entry that is listed twice is accepted.
            if names.setdefault(image['id'], image['file_name']) != image['file_name']:
                double.append(image['id'])
            width, height = image['width'], image['height']
            if not (width > 0 and height > 0):
                wrong.setdefault('a width or height that is not positive', []).append(index)
            elif width * height > PIXELS:
                wrong.setdefault('more pixels than an image may have', []).append(index)
            if not isinstance(image['file_name'], str):
                raise TypeError
            sizes[image['id']] = width, height
        except KeyError as problem:
            wrong.setdefault(f'no {problem.args[0]}', []).append(index)
        except TypeError:
            wrong.setdefault('an id, a width, a height or a file_name of the wrong type', []).append(index)
    findings = [
        error(
            reader.key,
            f'{path}: {len(where)} of {len(images)} images have {what}, the first is images[{where[0]}]; an image is '
            'dict(id=1, file_name=..., width=640, height=480) with sizes in pixels',
        )
        for what, where in wrong.items()
    ]
    if double:
        findings.append(
            error(
                reader.key,
                f'{path}: {some(double)} {"is" if len(double) == 1 else "are"} the id of several images: number them',
            )
        )
    small = sum(min(size) < reader.min_size for size in sizes.values())
    if small and small == len(sizes) and not findings:
        findings.append(
            error(
                f'{reader.owner}.filter_cfg.min_size',
                f'all {small} images of {path} have a side below {reader.min_size} pixels and would be left out',
            )
        )
    return findings, sizes


def _files(path: str, images: list, reader: Reader, used: set) -> Iterator[Finding]:
    """Findings on the image files: whether they exist, and whether some of them have the listed sizes."""
    if not reader.folder:
        return
    wanted = [image for image in images if not reader.filter_empty or image['id'] in used]
    missing = missing_files(os.path.join(reader.folder, image['file_name']) for image in wanted)
    if missing:
        yield error(
            f'{reader.owner}.data_prefix.img',
            f'{len(missing)} of the {len(wanted)} images of {path} are not there, the first is {missing[0]}: '
            'file_name is a path below this folder',
            FileNotFoundError,
        )
        return
    read = wanted[:: max(1, len(wanted) // LOOKED_AT)]
    other = []
    for image in read:
        file, given = os.path.join(reader.folder, image['file_name']), (image['width'], image['height'])
        try:
            size = image_size(file)
        except OSError:
            yield error(f'{reader.owner}.data_prefix.img', f'{file} is not an image that can be read')
            return
        if size != given:
            other.append(f'{image["file_name"]} is {size[0]}x{size[1]} and not {given[0]}x{given[1]}')
    if other:
        yield warning(
            reader.key,
            f'{path} gives another width and height for {len(other)} of {len(read)} images that were looked at '
            f'({other[0]}): boxes are read in pixels of the actual images',
        )
