"""The report of a saliency comparison, as numbers, JSON and a table."""

import math
from dataclasses import asdict, dataclass, field, fields

from rich.table import Table
from torch import Tensor

KINDS = dict(gradient='gradient x input', grad_cam='Grad-CAM')


ROLES = ('teacher', 'student')


@dataclass(frozen=True)
class Figures:
    """Measures of the agreement of two maps of one image; NaN if a map is flat and a measure is undefined.

    Attributes:
        cosine: cosine similarity of the maps.
        spearman: Spearman's rank correlation; equal pixels get their mean rank.
        iou: intersection over union of the top pixels.
        student_drop: probability that the student loses when the teacher's top pixels are erased.
        teacher_drop: probability that the teacher loses when the student's top pixels are erased.
    """

    cosine: float
    spearman: float
    iou: float
    student_drop: float
    teacher_drop: float

    def as_dict(self) -> dict:
        """The figures, with ``'flat'`` for NaN, which JSON cannot hold."""
        return {name: 'flat' if math.isnan(value) else value for name, value in asdict(self).items()}

    def cells(self) -> list[str]:
        """The figures as text; drops have a sign."""
        signs = ['+' if name.endswith('drop') else '' for name in asdict(self)]
        return [v if v == 'flat' else f'{v:{sign}.3f}' for v, sign in zip(self.as_dict().values(), signs)]


@dataclass(frozen=True)
class ImageSaliency:
    """The comparison of both networks on one image.

    Attributes:
        name: name of the image.
        label: the explained class; None for the best boxes of any class.
        explained: the explained quantity in words.
        probability: by role, the probability of the explained class, averaged over the explained pixels or boxes.
        maps: by kind and role, a map ``[H, W]`` in pixels of the image without padding.
        figures: by kind, the measures of agreement.
    """

    name: str
    label: int | None
    explained: str
    probability: dict[str, float]
    maps: dict[str, dict[str, Tensor]] = field(repr=False)
    figures: dict[str, Figures]


@dataclass(frozen=True)
class SaliencyReport:
    """The result of `compare`.

    Attributes:
        images: results of the images, in their order.
        top: percentage of the pixels that count as top pixels.
        layers: by role, the layer of Grad-CAM.
    """

    images: list[ImageSaliency]
    top: float
    layers: dict[str, str]

    def values(self, kind: str, figure: str) -> list[float]:
        """A figure of the images whose maps are not flat."""
        every = [getattr(image.figures[kind], figure) for image in self.images]
        return [value for value in every if not math.isnan(value)]

    def mean(self, kind: str) -> Figures:
        """Mean over the images without flat maps; NaN if all are flat."""
        values = {f.name: self.values(kind, f.name) for f in fields(Figures)}
        return Figures(**{name: sum(v) / len(v) if v else math.nan for name, v in values.items()})

    def flat(self, kind: str) -> dict[str, int]:
        """Number of flat maps by role: maps that are constant, and so have no top pixels, or not finite."""
        return {role: sum(not m.max() > m.min() for m in (i.maps[kind][role] for i in self.images)) for role in ROLES}

    def as_dict(self) -> dict:
        """All results except the maps, in a form that JSON can hold."""
        return dict(
            top=self.top,
            layers=self.layers,
            mean={kind: self.mean(kind).as_dict() | dict(flat_maps=self.flat(kind)) for kind in KINDS},
            images=[
                dict(
                    name=image.name,
                    label=image.label,
                    explained=image.explained,
                    probability=image.probability,
                    figures={kind: figures.as_dict() for kind, figures in image.figures.items()},
                )
                for image in self.images
            ],
        )

    def table(self) -> Table:
        """The report as a table for ``rich.print``."""
        flat = [f"{n} of the {r}'s {title}" for kind, title in KINDS.items() for r, n in self.flat(kind).items() if n]
        table = Table(
            title=f'Saliency of teacher and student, {len(self.images)} images',
            caption=(
                f'p: probability of the explained class. Drop: how much a network loses of it when the top '
                f"{self.top:g} % of the other network's pixels are erased. Grad-CAM at {self.layers['teacher']} of the "
                f'teacher and {self.layers["student"]} of the student. Flat maps, which are left out of the means: '
                + (', '.join(flat) or 'none')
            ),
        )
        for title in ('image', 'explained', 'p teacher', 'p student', 'map'):
            table.add_column(title, justify='right' if title.startswith('p ') else 'left', overflow='fold')
        for title in ('cosine', 'Spearman', f'IoU top {self.top:g} %', 'drop student', 'drop teacher'):
            table.add_column(title, justify='right')
        for image in self.images:
            about = [image.name, image.explained, *(f'{image.probability[role]:.3f}' for role in ROLES)]
            for kind, title in KINDS.items():
                table.add_row(*about, title, *image.figures[kind].cells())
                about = [''] * len(about)
        table.add_section()
        for kind, title in KINDS.items():
            table.add_row('mean', '', '', '', title, *self.mean(kind).cells())
        return table
