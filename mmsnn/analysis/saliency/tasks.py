"""Computing saliency maps of one image for classifiers, segmentors and detectors."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn import functional as F

from mmsnn.distill.distiller import Distiller
from mmsnn.distill.taps import Tap, resolve
from mmsnn.layers import get_time_steps

from .maps import grad_cam, gradient_x_input


@dataclass(frozen=True)
class Look:
    """The result of one network for one image.

    Attributes:
        target: the explained quantity, in the form of the task.
        size: number of classes or priors in the network's output.
        probability: probability of the explained quantity.
        maps: the maps by kind, on the CPU.
    """

    target: object
    size: int
    probability: float
    maps: dict[str, Tensor]


class Network:
    """A task model that processes one image at a time; subclasses implement the tasks.

    ``answer`` runs the model, and ``choose`` selects the quantity in its output that is to be explained. ``score``,
    whose gradient gives the maps, and ``probability`` compute this quantity from the output for any image.
    """

    task = ''
    # Whether the student explains the quantity that the teacher has chosen.
    shares_target = True

    def __init__(self, role: str, model: nn.Module, layer: str, boxes: int):
        self.role, self.model, self.boxes = role, model, boxes
        self.tap = Tap.parse(layer)
        if self.tap != Tap(self.tap.module, self.tap.index):
            raise ValueError(f'Grad-CAM needs the output of a module, but {role} layer {layer!r} is something else')
        self.module = resolve(model, self.tap, role)
        self.T = get_time_steps(model)

    def look(self, x: Tensor, shape, label: int | None, target=None) -> Look:
        """Both maps of the image ``x`` for ``target``, or for the quantity that the network chooses itself."""
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
            raise ValueError(
                f'{self.role} layer {self.tap} does not affect the output: name one that leads to the head'
            )
        if gradients[0] is None:
            # The spikes of Poisson encoding carry no gradient.
            print_log(f'no gradient reaches the image of the {self.role}', 'current', logging.WARNING)
            gradients = torch.zeros_like(x), gradients[1]
        cam = grad_cam(kept[0], gradients[1])[None, None]
        cam = F.interpolate(cam, x.shape[-2:], mode='bilinear', align_corners=False)[0, 0]
        maps = dict(gradient=gradient_x_input(x, gradients[0]), grad_cam=cam)
        # Padding is removed.
        maps = {kind: m[: shape[0], : shape[1]].detach().float().cpu() for kind, m in maps.items()}
        return Look(target, len(answer), probability.item(), maps)

    @torch.no_grad()
    def drop(self, x: Tensor, shape, look: Look, erased: Tensor) -> float:
        """The decrease of the explained probability when the pixels in ``erased`` are erased; NaN without pixels."""
        if not erased.any():
            return math.nan
        h, w = erased.shape
        mask = F.pad(erased.to(x.device), (0, x.shape[-1] - w, 0, x.shape[-2] - h))
        answer = self.answer(x.masked_fill(mask, 0), shape)
        return look.probability - self.probability(answer, look.target).item()

    @contextmanager
    def _kept(self) -> Iterator[list[Tensor]]:
        """Context that collects the maps ``[T or 1, C, h, w]`` that the layer returns, with gradients."""
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
            # The network continues with a copy, because an addition in place would change the kept map.
            outs[i] = feature.clone()
            return type(out)(outs) if isinstance(out, (tuple, list)) else outs[i]

        handle = self.module.register_forward_hook(keep)
        try:
            yield kept
        finally:
            handle.remove()

    def one(self, x: Tensor) -> Tensor:
        """The single image of a batch; remaining time steps are averaged."""
        return x.mean(0)

    def check_classes(self, label: int, classes: int) -> None:
        """Raise ValueError unless ``label`` is a number below ``classes``."""
        if not 0 <= label < classes:
            raise ValueError(f'label={label}: the {self.role} has the classes 0 to {classes - 1}')


class Classifier(Network):
    task = 'classification'

    def answer(self, x: Tensor, shape) -> Tensor:
        """Logits ``[K]``."""
        return self.one(self.model(x, mode='tensor'))

    def choose(self, logits: Tensor, label: int | None) -> int:
        """The predicted class, or ``label``."""
        return int(logits.argmax()) if label is None else label

    def score(self, logits: Tensor, target: int) -> Tensor:
        self.check_classes(target, len(logits))
        return logits[target]

    def probability(self, logits: Tensor, target: int) -> Tensor:
        return logits.softmax(0)[target]

    def describe(self, target: int, label: int | None) -> tuple[int, str]:
        return target, f'class {target}'


class Segmentor(Network):
    task = 'segmentation'

    def answer(self, x: Tensor, shape) -> Tensor:
        """Logits ``[K, H, W]`` of the whole image, without padding."""
        size = tuple(x.shape[-2:])
        logits = self.one(self.model.encode_decode(x, [dict(img_shape=size, pad_shape=size, ori_shape=size)]))
        # A single sigmoid output is converted to logits of two classes.
        logits = torch.cat([-logits / 2, logits / 2]) if len(logits) == 1 else logits
        return logits[:, : shape[0], : shape[1]]

    def choose(self, logits: Tensor, label: int | None) -> tuple[int, Tensor]:
        """The most frequent class, or ``label``, with its pixels; all pixels if the class is predicted nowhere."""
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


class DenseDetector(Network):
    task = 'detection'
    # Two detectors may have different priors.
    shares_target = False

    def __init__(self, role, model, layer, boxes):
        super().__init__(role, model, layer, boxes)
        self.head = getattr(model, 'bbox_head', None) or getattr(model, 'rpn_head', None)
        if not hasattr(self.head, 'cls_out_channels') or hasattr(model, 'forward_transformer'):
            raise TypeError(
                f'the {role}, a {type(model).__name__}, has no dense head with a score for each prior and class, as '
                'RetinaNet, FCOS and Faster R-CNN have'
            )

    def answer(self, x: Tensor, shape) -> Tensor:
        """Class logits ``[N, K]`` of all priors."""
        levels = self.head(self.model.extract_feat(x))[0]
        width = self.head.cls_out_channels
        return torch.cat([self.one(z).unflatten(0, (-1, width)).movedim(1, -1).flatten(0, -2) for z in levels])

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities by a sigmoid, or by a softmax whose last class is the background."""
        return logits.sigmoid() if getattr(self.head, 'use_sigmoid_cls', True) else logits.softmax(-1)[:, :-1]

    def choose(self, logits: Tensor, label: int | None) -> tuple[Tensor, Tensor]:
        """Rows and columns of the largest probabilities, of the class ``label`` or of all classes."""
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


class RegionDetector(DenseDetector):
    """A two-stage detector; its boxes are the proposals for the intact image."""

    def answer(self, x: Tensor, shape) -> tuple:
        """The feature maps and the size of the image."""
        return self.model.extract_feat(x), shape

    def logits(self, answer: tuple, proposals: Tensor) -> Tensor:
        """Class logits ``[N, K + 1]`` of boxes ``[N, 4]``."""
        return self.model.roi_head._bbox_forward(answer[0], F.pad(proposals, (1, 0)))['cls_score']

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)[:, :-1]

    def choose(self, answer: tuple, label: int | None) -> tuple[Tensor, Tensor]:
        """The proposals with the largest probabilities, and their classes."""
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


def read_network(role: str, model: nn.Module, layer: str, boxes: int) -> Network:
    """The `Network` for the task of ``model``; TypeError for other tasks."""
    model = model.student if isinstance(model, Distiller) else model
    roi_head = getattr(model, 'roi_head', None)
    if hasattr(model, 'encode_decode'):
        kind = Segmentor
    elif roi_head is not None and hasattr(model, 'rpn_head') and not isinstance(roi_head.bbox_head, nn.ModuleList):
        kind = RegionDetector
    elif hasattr(model, 'bbox_head') or hasattr(model, 'rpn_head'):
        kind = DenseDetector
    elif getattr(model, 'head', None) is not None:
        kind = Classifier
    else:
        raise TypeError(
            f'the {role}, a {type(model).__name__}, is not a classifier of mmpretrain, detector of mmdet or segmentor '
            'of mmseg'
        )
    return kind(role, model, layer, boxes)
