"""Saliency consistency: do a student and its teacher look at the same pixels? (Hu, Li, Deng, NCE 2025)

A reconstruction: the paper's own figures could not be had. A measurement, no loss.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields

import torch
from mmengine.logging import print_log
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from mmsnn.distill.distiller import Distiller
from mmsnn.distill.taps import Tap, resolve
from mmsnn.distill.teacher import renormalise
from mmsnn.layers import get_time_steps

from .forward import Batch, as_batches, images_in, watching

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


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine similarity of two maps; NaN where one is all zeros."""
    a, b = a.flatten().double(), b.flatten().double()
    norms = a.norm() * b.norm()
    return (a @ b / norms).item() if norms > 0 else math.nan


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two maps; NaN where one is constant."""
    if a.max() == a.min() or b.max() == b.min():
        return math.nan
    # here, because it takes a second
    from scipy.stats import spearmanr

    return float(spearmanr(a.flatten().numpy(), b.flatten().numpy()).statistic)


def top_pixels(saliency: Tensor, percent: float) -> Tensor:
    """Mask of the top ``percent`` of the pixels of a map, those tied with the last of them included.

    Never the lowest value of the map: a constant map has no top pixels, and zeros do not fill up a sparse one.
    """
    count = max(1, round(saliency.numel() * percent / 100))
    edge = saliency.flatten().topk(count).values[-1]
    return (saliency >= edge) & (saliency > saliency.min())


def iou(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two masks; NaN where one is empty."""
    return ((a & b).sum() / (a | b).sum()).item() if a.any() and b.any() else math.nan


def gradient_x_input(x: Tensor, gradient: Tensor) -> Tensor:
    """``|x * gradient|`` of one image ``[1, C, H, W]`` or ``[1, T, C, H, W]``, summed over all but ``[H, W]``."""
    return (x * gradient).abs().flatten(0, -3).sum(0)


def grad_cam(feature: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017) of one image: ``relu(sum_c mean_hw(gradient_c) * feature_c)``, ``[h, w]``.

    Features ``[T, C, h, w]`` of a spiking layer and their gradients are averaged over time first, so that a stage gives
    the map that its rates behind the readout give, up to a factor T.
    """
    feature, gradient = feature.mean(0), gradient.mean(0)
    return (gradient.mean((1, 2), keepdim=True) * feature).sum(0).relu()


def compare(
    teacher: nn.Module,
    student: nn.Module,
    images: Batch | Iterable[Batch],
    *,
    label: int | None = None,
    layer: str = 'backbone',
    teacher_layer: str | None = None,
    top: float = 10.0,
    boxes: int = 20,
    names: Sequence[str] = (),
) -> SaliencyReport:
    """Gradient x input and Grad-CAM of two task models on the same images, and how far they agree.

    What the maps explain, chosen on the intact image and kept when pixels are erased:

    - classification: the logit of the teacher's class;
    - segmentation: the logits of the teacher's most frequent class, mean over the pixels where the teacher sees it;
    - detection: the class logits of the network's own ``boxes`` most probable boxes, their mean: of the dense head
      (without centerness or objectness), of the second stage on its proposals, or of the RPN where a cascade follows.
      There is no suppression: boxes of several priors on one object count singly.

    What erasing costs is measured in probabilities (softmax for classes and pixels). Erased pixels are 0 after
    normalisation, each network's mean colour. Both models are left as they were: modes, ``requires_grad``, gradients,
    hooks.

    Args:
        teacher: a task model of mmpretrain, mmdet or mmseg, spiking or not.
        student: another one of the same task. Of a `Distiller`, the student inside.
        images: a batch of a data loader, as the student's data preprocessor takes it; or images ``[B, C, H, W]`` as it
            has made them; or an iterable of either. The teacher sees them in its own normalisation.
        label: class to explain instead.
        layer: module of the student at which Grad-CAM looks, e.g. ``backbone.layer3``, or ``neck[0]`` for an item of
            what it returns; of several maps otherwise the last. The default is the backbone's last map.
        teacher_layer: the same of the teacher, default ``layer``.
        top: percent of the pixels that count as top.
        boxes: how many boxes of a detector are explained.
        names: of the images, default their numbers.

    Raises:
        TypeError: ``images`` is none of these, or a model is of no known task.
        ValueError: ``top``, ``boxes`` or ``label`` out of range, no images, a layer that does not exist or gives no
            maps, or models of different tasks or classes.
    """
    if not 0 < top < 100:
        raise ValueError(f'top is a percentage between 0 and 100, got {top!r}')
    if boxes < 1:
        raise ValueError(f'boxes must be at least 1, got {boxes!r}')
    student = _read('student', student, layer, boxes)
    teacher = _read('teacher', teacher, teacher_layer or layer, boxes)
    if teacher.task != student.task:
        raise ValueError(f'a teacher for {teacher.task} and a student for {student.task} have nothing to compare')
    found = []
    with _untouched(teacher.model), _untouched(student.model):
        for x, shape in _split(images, student.model):
            name = names[len(found)] if len(found) < len(names) else str(len(found))
            found.append(_compare_image(teacher, student, x, shape, label, top, name))
    if not found:
        raise ValueError('there are no images to compare')
    return SaliencyReport(found, top, {n.role: str(n.tap) for n in (teacher, student)})


def _compare_image(teacher, student, x: Tensor, shape, label, top: float, name: str) -> ImageSaliency:
    inputs = dict(teacher=renormalise(x, student.model, teacher.model), student=x)
    looks = dict(teacher=teacher.look(inputs['teacher'], shape, label))
    answer = looks['teacher'].target if teacher.shares_target else None
    looks['student'] = student.look(x, shape, label, answer)
    if teacher.shares_target and looks['teacher'].size != looks['student'].size:
        classes = ' and '.join(f'{looks[role].size} of the {role}' for role in ROLES)
        raise ValueError(f'the classes must be the same, there are {classes}')
    maps = {kind: {role: looks[role].maps[kind] for role in ROLES} for kind in KINDS}
    figures = {}
    for kind, pair in maps.items():
        masks = {role: top_pixels(pair[role], top) for role in ROLES}
        drops = {
            network.role: network.drop(inputs[network.role], shape, looks[network.role], masks[other.role])
            for network, other in ((teacher, student), (student, teacher))
        }
        agreement = [measure(pair['teacher'], pair['student']) for measure in (cosine, spearman)]
        figures[kind] = Figures(*agreement, iou(*masks.values()), drops['student'], drops['teacher'])
    chosen, explained = student.describe(looks['student'].target, label)
    return ImageSaliency(name, chosen, explained, {r: look.probability for r, look in looks.items()}, maps, figures)


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Eval mode, gradients for inputs alone, no activation checkpointing; afterwards everything is as before."""
    learning = [p for p in model.parameters() if p.requires_grad]
    # reentrant checkpointing refuses autograd.grad
    checkpointed = {m: m.with_cp for m in model.modules() if 'with_cp' in vars(m)}
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        for module in checkpointed:
            module.with_cp = False
        with watching(model, (), None), torch.enable_grad():
            yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        for module, value in checkpointed.items():
            module.with_cp = value


def _split(images: Batch | Iterable[Batch], student: nn.Module) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """One preprocessed image ``[1, ...]`` after the other, and its height and width without padding."""
    for batch in as_batches(images):
        samples = [None] * images_in(batch)
        if isinstance(batch, Mapping):
            data = student.data_preprocessor(batch, False)
            batch, samples = data['inputs'], data.get('data_samples') or samples
        if batch.dim() not in (4, 5):
            raise ValueError(f'images must be [B, C, H, W] or event frames [B, T, C, H, W], got {tuple(batch.shape)}')
        for x, sample in zip(batch.to(next(student.parameters()).device), samples):
            shape = None if sample is None else sample.metainfo.get('img_shape')
            yield x[None], tuple((shape or x.shape[-2:])[:2])


@dataclass(frozen=True)
class _Look:
    """What one network saw in one image: what was explained, how probable it is, and the maps on the CPU.

    ``size`` is the length of the whole answer: classes, or priors.
    """

    target: object
    size: int
    probability: float
    maps: dict[str, Tensor]


class _Network:
    """A task model that is asked about one image at a time; subclasses know the task.

    ``answer`` is what the model says; ``choose`` picks in it what is explained; ``score`` (whose gradient makes the
    maps) and ``probability`` read that out of the answer to any image.
    """

    task = ''
    # whether the student explains what the teacher has chosen
    shares_target = True

    def __init__(self, role: str, model: nn.Module, layer: str, boxes: int):
        self.role, self.model, self.boxes = role, model, boxes
        self.tap = Tap.parse(layer)
        if self.tap != Tap(self.tap.module, self.tap.index):
            raise ValueError(f'Grad-CAM looks at what a module returns, {role} layer {layer!r} asks for something else')
        self.module = resolve(model, self.tap, role)
        self.T = get_time_steps(model)

    def look(self, x: Tensor, shape, label: int | None, target=None) -> _Look:
        """Both maps of the image ``x`` and what they explain: ``target``, or what the network chooses itself."""
        x = x.detach().clone().requires_grad_()
        with self._kept() as kept:
            answer = self.answer(x, shape)
        if len(kept) != 1:
            raise ValueError(
                f'{self.role} layer {self.tap} ran {len(kept)} times in one forward: name one that runs once'
            )
        if target is None:
            target = self.choose(answer, label)
        score, probability = self.score(answer, target), self.probability(answer, target)
        gradients = torch.autograd.grad(score, (x, kept[0]), allow_unused=True)
        if gradients[1] is None:
            raise ValueError(f'{self.role} layer {self.tap} has no part in the answer: name one on the way to the head')
        if gradients[0] is None:
            # Poisson encoding: the spikes carry none
            print_log(f'no gradient reaches the image of the {self.role}', 'current', logging.WARNING)
            gradients = torch.zeros_like(x), gradients[1]
        cam = grad_cam(kept[0], gradients[1])[None, None]
        cam = F.interpolate(cam, x.shape[-2:], mode='bilinear', align_corners=False)[0, 0]
        maps = dict(gradient=gradient_x_input(x, gradients[0]), grad_cam=cam)
        # padding is no part of the image
        maps = {kind: m[: shape[0], : shape[1]].detach().float().cpu() for kind, m in maps.items()}
        return _Look(target, len(answer), probability.item(), maps)

    @torch.no_grad()
    def drop(self, x: Tensor, shape, look: _Look, erased: Tensor) -> float:
        """How much less probable what ``look`` explains is without the pixels in ``erased``; NaN if there are none."""
        if not erased.any():
            return math.nan
        h, w = erased.shape
        mask = F.pad(erased.to(x.device), (0, x.shape[-1] - w, 0, x.shape[-2] - h))
        answer = self.answer(x.masked_fill(mask, 0), shape)
        return look.probability - self.probability(answer, look.target).item()

    @contextmanager
    def _kept(self) -> Iterator[list[Tensor]]:
        """The maps ``[T or 1, C, h, w]`` that the layer returns meanwhile, with a gradient."""
        kept, index = [], self.tap.index

        def keep(_module, _inputs, out):
            outs = [*out] if isinstance(out, (tuple, list)) else [out]
            i = len(outs) - 1 if index is None else index
            feature = outs[i] if i < len(outs) else None
            shape = tuple(feature.shape) if isinstance(feature, Tensor) else ()
            if len(shape) != 4 or shape[0] not in (1, self.T):
                what = f'a tensor {shape}' if shape else f'{len(outs)} outputs' if feature is None else 'no tensor'
                raise ValueError(
                    f'{self.role} layer {self.tap} gives {what} for one image and T={self.T}, Grad-CAM needs maps '
                    '[1 or T, C, h, w]: name a stage of the backbone'
                )
            if not feature.requires_grad:
                feature = feature.detach().requires_grad_()
            kept.append(feature)
            # a copy goes on: an addition in place would change what is kept
            outs[i] = feature.clone()
            return type(out)(outs) if isinstance(out, (tuple, list)) else outs[i]

        handle = self.module.register_forward_hook(keep)
        try:
            yield kept
        finally:
            handle.remove()

    def one(self, x: Tensor) -> Tensor:
        """The only image of a batch; time steps that are left are averaged."""
        return x.mean(0)

    def check_classes(self, label: int, classes: int) -> None:
        """ValueError unless ``label`` is one of so many classes."""
        if not 0 <= label < classes:
            raise ValueError(f'label={label}: the {self.role} tells the classes 0 to {classes - 1} apart')


class _Classifier(_Network):
    task = 'classification'

    def answer(self, x: Tensor, shape) -> Tensor:
        """Logits ``[K]``."""
        return self.one(self.model(x, mode='tensor'))

    def choose(self, logits: Tensor, label: int | None) -> int:
        """A class."""
        return int(logits.argmax()) if label is None else label

    def score(self, logits: Tensor, target: int) -> Tensor:
        self.check_classes(target, len(logits))
        return logits[target]

    def probability(self, logits: Tensor, target: int) -> Tensor:
        return logits.softmax(0)[target]

    def describe(self, target: int, label: int | None) -> tuple[int, str]:
        return target, f'class {target}'


class _Segmentor(_Network):
    task = 'segmentation'

    def answer(self, x: Tensor, shape) -> Tensor:
        """Logits ``[K, H, W]`` of the whole image, without padding."""
        size = tuple(x.shape[-2:])
        logits = self.one(self.model.encode_decode(x, [dict(img_shape=size, pad_shape=size, ori_shape=size)]))
        # one sigmoid as the two classes that it tells apart
        logits = torch.cat([-logits / 2, logits / 2]) if len(logits) == 1 else logits
        return logits[:, : shape[0], : shape[1]]

    def choose(self, logits: Tensor, label: int | None) -> tuple[int, Tensor]:
        """A class and its pixels; all pixels where it is seen nowhere."""
        seen = logits.argmax(0)
        label = int(seen.flatten().bincount().argmax()) if label is None else label
        where = seen == label
        return label, where if where.any() else torch.ones_like(where)

    def score(self, logits: Tensor, target) -> Tensor:
        self.check_classes(target[0], len(logits))
        return logits[target[0]][target[1]].mean()

    def probability(self, logits: Tensor, target) -> Tensor:
        return logits.softmax(0)[target[0]][target[1]].mean()

    def describe(self, target, label: int | None) -> tuple[int, str]:
        return target[0], f'class {target[0]} on {target[1].float().mean():.0%} of the pixels'


class _DenseDetector(_Network):
    task = 'detection'
    # the priors of two detectors need not be the same
    shares_target = False

    def __init__(self, role, model, layer, boxes):
        super().__init__(role, model, layer, boxes)
        self.head = getattr(model, 'bbox_head', None) or getattr(model, 'rpn_head', None)
        if not hasattr(self.head, 'cls_out_channels') or hasattr(model, 'forward_transformer'):
            raise TypeError(
                f'the {role}, a {type(model).__name__}, has no dense head with a score for each prior and class; '
                'RetinaNet, FCOS, Faster R-CNN and their like have'
            )

    def answer(self, x: Tensor, shape) -> Tensor:
        """Class logits ``[N, K]`` of all priors."""
        levels = self.head(self.model.extract_feat(x))[0]
        width = self.head.cls_out_channels
        return torch.cat([self.one(z).unflatten(0, (-1, width)).movedim(1, -1).flatten(0, -2) for z in levels])

    def probabilities(self, logits: Tensor) -> Tensor:
        """By sigmoid, or by softmax, whose last class is the background."""
        return logits.sigmoid() if getattr(self.head, 'use_sigmoid_cls', True) else logits.softmax(-1)[:, :-1]

    def choose(self, logits: Tensor, label: int | None) -> tuple[Tensor, Tensor]:
        """Rows and columns of the largest probabilities, of one class or of any."""
        p = self.probabilities(logits)
        rows, classes = p.shape
        if label is not None:
            self.check_classes(label, classes)
            best = p[:, label].topk(min(self.boxes, rows)).indices
            return best, torch.full_like(best, label)
        best = p.flatten().topk(min(self.boxes, p.numel())).indices
        return best // classes, best % classes

    def score(self, logits: Tensor, target) -> Tensor:
        return logits[target].mean()

    def probability(self, logits: Tensor, target) -> Tensor:
        return self.probabilities(logits)[target].mean()

    def describe(self, target, label: int | None) -> tuple[int | None, str]:
        return label, f'top {len(target[0])} boxes' + ('' if label is None else f' of class {label}')


class _RegionDetector(_DenseDetector):
    """Two stages: the boxes are proposals, found on the intact image."""

    def answer(self, x: Tensor, shape) -> tuple:
        """Feature maps, and the size of the image."""
        return self.model.extract_feat(x), shape

    def logits(self, answer: tuple, proposals: Tensor) -> Tensor:
        """Class logits ``[N, K + 1]`` of boxes ``[N, 4]``."""
        return self.model.roi_head._bbox_forward(answer[0], F.pad(proposals, (1, 0)))['cls_score']

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)[:, :-1]

    def choose(self, answer: tuple, label: int | None) -> tuple[Tensor, Tensor]:
        """The best proposals, and the classes that they show."""
        from mmdet.structures import DetDataSample

        feats, shape = answer
        sample = DetDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0)))
        with torch.no_grad():
            proposals = self.model.rpn_head.predict(feats, [sample], rescale=False)[0].bboxes
            rows, columns = super().choose(self.logits(answer, proposals), label)
        return proposals[rows], columns

    def score(self, answer: tuple, target) -> Tensor:
        return self.logits(answer, target[0]).gather(1, target[1][:, None]).mean()

    def probability(self, answer: tuple, target) -> Tensor:
        return self.probabilities(self.logits(answer, target[0])).gather(1, target[1][:, None]).mean()


def _read(role: str, model: nn.Module, layer: str, boxes: int) -> _Network:
    """The model with the questions of its task; TypeError if that is none of the three."""
    model = model.student if isinstance(model, Distiller) else model
    roi_head = getattr(model, 'roi_head', None)
    if hasattr(model, 'encode_decode'):
        kind = _Segmentor
    elif roi_head is not None and hasattr(model, 'rpn_head') and not isinstance(roi_head.bbox_head, nn.ModuleList):
        kind = _RegionDetector
    elif hasattr(model, 'bbox_head') or hasattr(model, 'rpn_head'):
        kind = _DenseDetector
    elif getattr(model, 'head', None) is not None:
        kind = _Classifier
    else:
        raise TypeError(
            f'the {role}, a {type(model).__name__}, is no classifier of mmpretrain, detector of mmdet or segmentor of '
            'mmseg'
        )
    return kind(role, model, layer, boxes)
