"""The annotations of a COCO file, one by one, as mmdet's CocoDataset reads them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from .findings import Finding, error, note, number, some, warning

# The reasons for which mmdet drops annotations, in its order, with the remedy if no annotation is left.
DROPPED = {
    'marked ignore': '',
    'outside of the image': 'COCO boxes are [x, y, width, height] in pixels of the image',
    'of an area of 0 or less': 'write area = width * height of the box, or that of the mask',
    'narrower or lower than a pixel': 'COCO boxes are [x, y, width, height] in pixels of the image',
    'of another category': '',
    'of an image that is not listed': "image_id must be the id of one of the file's images",
    'marked iscrowd': 'these are regions to ignore: write iscrowd = 0 for single objects',
}
# Faults for which mmdet or pycocotools raise a bare KeyError or TypeError, with their remedies.
FATAL = {
    'no JSON object': '',
    'without id': 'number the annotations from 1',
    'without image_id': "image_id is the id of one of the file's images",
    'without category_id': "category_id is the id of one of the file's categories",
    'without bbox': 'write bbox = [x, y, width, height] in pixels',
    'whose bbox is not four numbers': 'write bbox = [x, y, width, height] in pixels',
    'without area': 'write area = width * height of the box, or that of the mask',
    'whose area is no number': 'write area = width * height of the box, or that of the mask',
    'whose category_id is unhashable': 'category_id is a number',
    'without segmentation': 'write polygons or run lengths, or leave out with_mask=True of LoadAnnotations',
    'whose segmentation is no list of polygons': 'write [[x1, y1, x2, y2, ...], ...], a list for each polygon',
    'whose mask has another size than its image': 'write size = [height, width] of the image beside the counts',
    'without iscrowd': "write iscrowd = 0, which COCO's evaluation reads",
}


@dataclass(frozen=True)
class Reader:
    """How an annotation file is read.

    Args:
        key: config key of the file.
        owner: config key of the dataset that the classes belong to.
        classes: names of the classes; None if they are unknown.
        default: the dataset type that the classes come from, if the config gives none.
        by_name: whether labels are numbered in the order in which the file lists those categories that are among
            ``classes``, as in mmdet's CocoDataset.
        boxes: whether annotations are boxes (a panoptic file has segments).
        annotated: whether the file must have annotations.
        filter_empty: whether images without annotations are left out.
        min_size: smallest side of images that are used.
        masks: whether masks are read.
        evaluated: whether COCO's evaluation reads the file.
        folder: folder of the images; None does not check them.
    """

    key: str
    owner: str
    classes: tuple[str, ...] | None = None
    default: str | None = None
    by_name: bool = True
    boxes: bool = True
    annotated: bool = True
    filter_empty: bool = False
    min_size: int = 0
    masks: bool = False
    evaluated: bool = False
    folder: str | None = None


class Annotations:
    """Checks the annotations of a file in one pass, in the way mmdet's CocoDataset reads them.

    Args:
        path: the file.
        reader: how it is read.
        sizes: by the id of an image, its width and height.
        ids: by the id of a category, the name of its class.
    """

    def __init__(self, path: str, reader: Reader, sizes: dict, ids: dict):
        self.path, self.reader, self.sizes, self.ids = path, reader, sizes, ids
        self.count, self.first = Counter(), {}
        self.kept = Counter()
        self.used, self.with_boxes, self.numbers = set(), set(), set()
        self.double = self.corners = self.fractions = self.beyond = self.repeated = 0
        self.seen: set[int] = set()

    def check(self, annotations: list) -> Iterator[Finding]:
        """Findings, the errors first and a summary at the end."""
        for index, annotation in enumerate(annotations):
            try:
                rule = self._rule(annotation)
            except (KeyError, TypeError, ValueError, AttributeError):
                rule = self._diagnosis(annotation)
            if rule is not None:
                self.count[rule] += 1
                self.first.setdefault(rule, index)
        total, key = len(annotations), self.reader.key
        for rule in FATAL:
            if self.count[rule]:
                remedy = f': {FATAL[rule]}' if FATAL[rule] else ''
                yield error(key, f'{self.path}: {self._share(rule, total, annotations)} are {rule}{remedy}')
        if self.double:
            yield error(key, f'{self.path}: {self.double} annotations have the id of another one')
        if self.reader.evaluated and 0 in self.numbers:
            yield warning(
                key, f'{self.path}: an annotation has the id 0, which COCO counts as not found: number from 1'
            )
        if not any(self.count[rule] for rule in FATAL):
            yield from self._dropped(total, annotations)

    def _rule(self, annotation: dict) -> str | None:
        """The reason for which mmdet drops an annotation or fails; None if it keeps the annotation."""
        x, y, w, h = annotation['bbox']
        own, image, category, area = (annotation[key] for key in ('id', 'image_id', 'category_id', 'area'))
        if own in self.numbers:
            self.double += 1
        self.numbers.add(own)
        if image not in self.sizes:
            return 'of an image that is not listed'
        width, height = self.sizes[image]
        right, bottom = x + w, y + h
        if not -1e9 < right + bottom < 1e9:
            return 'whose bbox is not four numbers'
        known = category in self.ids
        if known:
            self.used.add(image)
        if self.reader.evaluated and annotation.get('iscrowd') is None:
            return 'without iscrowd'
        self.fractions += right <= 1 and bottom <= 1
        self.corners += (right > width + 1 or bottom > height + 1) and w > x and h > y
        if annotation.get('ignore'):
            return 'marked ignore'
        if min(right, width) <= max(x, 0) or min(bottom, height) <= max(y, 0):
            return 'outside of the image'
        # The comparison also refuses NaN.
        if not area > 0:
            return 'of an area of 0 or less'
        if w < 1 or h < 1:
            return 'narrower or lower than a pixel'
        if not known:
            return 'of another category'
        if self.reader.masks:
            shape = annotation.get('segmentation')
            if not shape:
                return 'without segmentation'
            if isinstance(shape, list) and not all(isinstance(polygon, list) for polygon in shape):
                return 'whose segmentation is no list of polygons'
            if isinstance(shape, dict) and list(shape.get('size', ())) != [height, width]:
                return 'whose mask has another size than its image'
        if annotation.get('iscrowd'):
            return 'marked iscrowd'
        self.beyond += x < -1 or y < -1 or right > width + 1 or bottom > height + 1
        mark = hash((image, category, x, y, w, h))
        self.repeated += mark in self.seen
        self.seen.add(mark)
        self.kept[category] += 1
        self.with_boxes.add(image)
        return None

    @staticmethod
    def _diagnosis(annotation) -> str:
        """The entry of `FATAL` that applies to an annotation that could not be read."""
        if not isinstance(annotation, dict):
            return 'no JSON object'
        for key in ('id', 'image_id', 'category_id', 'bbox', 'area'):
            if key not in annotation:
                return f'without {key}'
        box = annotation['bbox']
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
            return 'whose bbox is not four numbers'
        if not isinstance(annotation['area'], (int, float)):
            return 'whose area is no number'
        return 'whose category_id is unhashable'

    def _share(self, rule: str, total: int, annotations: list) -> str:
        first = annotations[self.first[rule]]
        own = first.get('id') if isinstance(first, dict) else None
        where = f'annotations[{self.first[rule]}]' + ('' if own is None else f' with id {own!r}')
        return f'{self.count[rule]} of {total} annotations (the first: {where})'

    def _dropped(self, total: int, annotations: list) -> Iterator[Finding]:
        dropped = {rule: self.count[rule] for rule in DROPPED if self.count[rule]}
        remedies = list(dict.fromkeys(r for rule in dropped for r in self._hints(rule, annotations)))
        parts = '; '.join(f'{count} {rule}' for rule, count in dropped.items())
        if total and not self.kept.total():
            yield error(
                self.reader.key,
                f'{self.path}: none of the {total} boxes would be read: {"; ".join([parts, *remedies])}',
            )
            return
        if not total and self.reader.annotated and self.reader.filter_empty:
            yield error(self.reader.key, f'{self.path} has no annotations, so that every image would be left out')
            return
        size = self.reader.min_size
        small = sum(min(wh) < size for wh in self.sizes.values())
        empty = sum(min(wh) >= size and image not in self.used for image, wh in self.sizes.items())
        left = len(self.sizes) - small - (empty if self.reader.filter_empty else 0)
        text = f'{self.path}: {left} of {len(self.sizes)} images, {self.kept.total()} of {total} boxes'
        if small:
            text += f'; {number(small, "image")} with a side below {size} pixels left out'
        if empty:
            text += f'; {number(empty, "image")} without a box{" left out" if self.reader.filter_empty else ""}'
        bare = len(self.used - self.with_boxes)
        if bare:
            text += f'; {number(bare, "image")} without any of their boxes left, read as background'
        if parts:
            text += f'; boxes dropped: {parts}'
        if self.beyond:
            text += (
                f'; {self.beyond} {"boxes reach" if self.beyond > 1 else "box reaches"} beyond the image, kept as given'
            )
        if self.repeated:
            text += f'; {self.repeated} the same as another of the same image, kept'
        absent = [name for category, name in self.ids.items() if not self.kept[category]]
        if absent and total:
            text += f'; classes without a box: {some(absent)}'
        expected = sum(dropped.get(rule, 0) for rule in ('of another category', 'marked ignore', 'marked iscrowd'))
        many = sum(dropped.values()) - expected > 0.01 * total or 'of an area of 0 or less' in dropped
        if self.corners > 0.5 * total:
            many, text = True, f'{text}; most boxes leave their image: are they corners instead of sizes?'
        if many and remedies:
            text += f'; {"; ".join(remedies)}'
        yield (warning if many else note)(self.reader.key, text)

    def _hints(self, rule: str, annotations: list) -> Iterator[str]:
        """Remedies and likely causes for a reason, judged by the first annotation that was dropped for it."""
        if DROPPED[rule]:
            yield DROPPED[rule]
        first = annotations[self.first[rule]]
        for case, key, known, what in (
            ('of an image that is not listed', 'image_id', self.sizes, 'images'),
            ('of another category', 'category_id', self.ids, 'categories'),
        ):
            if rule == case and str(first[key]) in map(str, known):
                yield f'{key}={first[key]!r} is of another type than the id in {what}'
        if rule == 'narrower or lower than a pixel' and self.fractions == self.count.total():
            yield 'these look like fractions of the size'
