"""What two networks look at in each image, and how far they agree: numbers, JSON, a table."""

import math
from dataclasses import asdict, dataclass, field, fields

from rich.table import Table
from torch import Tensor

KINDS = dict(gradient='gradient x input', grad_cam='Grad-CAM')


ROLES = ('teacher', 'student')


@dataclass(frozen=True)
class Figures:
    """How far two maps of one image agree; NaN where a map is flat, which leaves the figure without meaning.

    Attributes:
        cosine: cosine similarity of the maps.
        spearman: Spearman's rank correlation, tied pixels with their mean rank.
        iou: intersection over union of the top pixels.
        student_drop: probability that the student loses when the teacher's top pixels are erased.
        teacher_drop: the other way round.
    """

    cosine: float
    spearman: float
    iou: float
    student_drop: float
    teacher_drop: float

    def as_dict(self) -> dict:
        """The figures, ``'flat'`` for NaN, which JSON does not know."""
        return {name: 'flat' if math.isnan(value) else value for name, value in asdict(self).items()}

    def cells(self) -> list[str]:
        """The figures as text; drops with their sign."""
        signs = ['+' if name.endswith('drop') else '' for name in asdict(self)]
        return [v if v == 'flat' else f'{v:{sign}.3f}' for v, sign in zip(self.as_dict().values(), signs)]


@dataclass(frozen=True)
class ImageSaliency:
    """One image seen by both networks.

    Attributes:
        name: of the image.
        label: class that is explained, None for the best boxes of any class.
        explained: the same in words.
        probability: by role, what erasing may cost: of the class, mean over the explained pixels or boxes.
        maps: by kind and role, ``[H, W]`` in pixels of the image without padding.
        figures: by kind.
    """

    name: str
    label: int | None
    explained: str
    probability: dict[str, float]
    maps: dict[str, dict[str, Tensor]] = field(repr=False)
    figures: dict[str, Figures]


@dataclass(frozen=True)
class SaliencyReport:
    """What `compare` found.

    Attributes:
        images: in the order they came.
        top: percent of the pixels that count as top.
        layers: where Grad-CAM looked, by role.
    """

    images: list[ImageSaliency]
    top: float
    layers: dict[str, str]

    def values(self, kind: str, figure: str) -> list[float]:
        """A figure of the images whose maps are not flat."""
        every = [getattr(image.figures[kind], figure) for image in self.images]
        return [value for value in every if not math.isnan(value)]

    def mean(self, kind: str) -> Figures:
        """Mean over the images, flat maps left out; NaN where all are flat."""
        found = {f.name: self.values(kind, f.name) for f in fields(Figures)}
        return Figures(**{name: sum(v) / len(v) if v else math.nan for name, v in found.items()})

    def flat(self, kind: str) -> dict[str, int]:
        """Number of flat maps, by role: constant, so without top pixels, or not finite."""
        return {role: sum(not m.max() > m.min() for m in (i.maps[kind][role] for i in self.images)) for role in ROLES}

    def as_dict(self) -> dict:
        """Everything but the maps, ready for JSON."""
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
        """The report for ``rich.print``."""
        flat = [f"{n} of the {r}'s {title}" for kind, title in KINDS.items() for r, n in self.flat(kind).items() if n]
        table = Table(
            title=f'Saliency of teacher and student, {len(self.images)} images',
            caption=(
                f'p: probability of what is explained. Drop: what a network loses of it when the top {self.top:g} % of '
                f"the other network's pixels are erased. Grad-CAM at {self.layers['teacher']} of the teacher and "
                f'{self.layers["student"]} of the student. Maps that are flat, and count in no mean: '
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
