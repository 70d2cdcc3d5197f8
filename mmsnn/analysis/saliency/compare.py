"""Comparing the saliency of two networks on the same images."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmsnn.distill.teacher import renormalise

from ..forward import Batch, as_batches, images_in, watching
from .maps import cosine, iou, spearman, top_pixels
from .report import KINDS, ROLES, Figures, ImageSaliency, SaliencyReport
from .tasks import read_network


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
    """Compute gradient x input and Grad-CAM of two task models on the same images, and measure their agreement.

    The maps explain a quantity that is chosen on the intact image and stays the same when pixels are erased:

    - classification: the logit of the teacher's class;
    - segmentation: the logits of the teacher's most frequent class, averaged over the pixels to which it is assigned;
    - detection: the mean class logit of the network's own ``boxes`` most probable boxes. They are boxes of the dense
      head (without centerness or objectness), of the second stage on its proposals, or of the RPN if a cascade follows.
      There is no non-maximum suppression, so several priors on one object count separately.

    The effect of erasing is measured in probabilities (softmax for classes and pixels). Erased pixels are 0 after
    normalisation, which is the mean colour. Both models keep their modes, ``requires_grad``, gradients and hooks.

    Args:
        teacher: a task model of mmpretrain, mmdet or mmseg, spiking or not.
        student: another model for the same task; for a `Distiller`, its student is used.
        images: a batch of a data loader for the student's data preprocessor, images ``[B, C, H, W]`` as this
            preprocessor returns them, or an iterable of either. They are normalised anew for the teacher.
        label: class to explain instead of the teacher's.
        layer: module of the student for Grad-CAM, e.g. ``backbone.layer3``, or ``neck[0]`` for an item of its output.
            If there are several maps, the last one is taken. The default is the backbone's last map.
        teacher_layer: the same for the teacher; by default ``layer``.
        top: percentage of the pixels that count as top pixels.
        boxes: number of explained boxes of a detector.
        names: names of the images; by default their numbers.

    Raises:
        TypeError: ``images`` has another form, or a model belongs to no known task.
        ValueError: ``top``, ``boxes`` or ``label`` is out of range, there are no images, a layer does not exist or
            returns no maps, or the models have different tasks or classes.
    """
    if not 0 < top < 100:
        raise ValueError(f'top is a percentage between 0 and 100, got {top!r}')
    if boxes < 1:
        raise ValueError(f'boxes must be at least 1, got {boxes!r}')
    student = read_network('student', student, layer, boxes)
    teacher = read_network('teacher', teacher, teacher_layer or layer, boxes)
    if teacher.task != student.task:
        raise ValueError(f'a teacher for {teacher.task} and a student for {student.task} have nothing to compare')
    results = []
    with _untouched(teacher.model), _untouched(student.model):
        for x, shape in _split(images, student.model):
            name = names[len(results)] if len(results) < len(names) else str(len(results))
            results.append(_compare_image(teacher, student, x, shape, label, top, name))
    if not results:
        raise ValueError('there are no images to compare')
    return SaliencyReport(results, top, {n.role: str(n.tap) for n in (teacher, student)})


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
    """Context with eval mode, gradients only for inputs and no activation checkpointing; all is restored at its end."""
    learning = [p for p in model.parameters() if p.requires_grad]
    # Reentrant checkpointing does not support autograd.grad.
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
    """Yield each preprocessed image ``[1, ...]`` with its height and width without padding."""
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
