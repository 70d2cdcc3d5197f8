"""The best and the worst predictions as pictures: truth, student and teacher, drawn by the task libraries."""

from pathlib import Path

import matplotlib.pyplot as plt
import mmcv
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData

from mmsnn.distill.teacher import Teacher
from mmsnn.visualize import event_frames

from .evaluation import SCORE, truth_of

# pixels of a side at which a picture is kept
LARGEST, SMALLEST = 480, 160


def draw(model, dataset, chosen: dict[str, list[int]], kind: str, folder: Path, teachers: dict[str, Teacher]) -> list:
    """Draw some images of a dataset into a folder.

    Args:
        model: the student, with ``test_step``.
        dataset: of the images.
        chosen: indices of images by what they are, ``best`` and ``worst``.
        kind: as `evaluation.kind_of` says.
        folder: of the files.
        teachers: by name.

    Returns:
        One dict an image: ``which``, ``index``, ``name``, and ``panels``, each with ``title``, ``said`` and ``file``.
    """
    classes = list((dataset.metainfo or {}).get('classes') or ())
    found = []
    for which, indices in chosen.items():
        for place, index in enumerate(indices, 1):
            batch = pseudo_collate([dataset[index]])
            image = image_of(dataset, index, batch)
            if image is None:
                raise ValueError('the data set holds no pictures that could be shown')
            with torch.no_grad():
                samples = dict(student=model.test_step(batch)[0])
                for name, teacher in teachers.items():
                    samples[name] = teacher.predict(pseudo_collate([dataset[index]]), model)[0]
            name = Path(samples['student'].get('img_path') or f'image {index}').name
            panels = []
            for title, (drawn, said) in _panels(image, samples, kind, classes, dataset, index).items():
                file = f'{which}_{place}_{title}.jpg'
                mmcv.imwrite(drawn[..., ::-1], str(folder / file))
                panels.append(dict(title=title, said=said, file=file))
            found.append(dict(which=which, index=index, name=name, panels=panels))
    return found


def image_of(dataset, index: int, batch: dict) -> np.ndarray | None:
    """The picture of a sample, RGB ``[H, W, 3]``; of events, their frames side by side; None where there is none."""
    path = batch['data_samples'][0].get('img_path')
    if isinstance(path, str) and Path(path).is_file() and mmcv.imread(path) is not None:
        return mmcv.imread(path, channel_order='rgb')
    image = dataset.get_data_info(index).get('img')
    if image is not None:
        return np.asarray(image)
    inputs = batch['inputs'][0]
    if inputs.dim() == 4 and inputs.shape[1] == 2:
        figure, axes = plt.subplots(1, min(4, len(inputs)), figsize=(4.8, 1.4), squeeze=False, layout='constrained')
        event_frames(list(axes[0]), inputs)
        figure.canvas.draw()
        drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
        plt.close(figure)
        return drawn
    return None


def _panels(image, samples: dict, kind: str, classes: list[str], dataset, index: int) -> dict:
    """By title: the picture and a line about it."""
    if kind == 'classification':
        student = samples['student']
        said = {'truth': _class(classes, int(student.gt_label))}
        for name, sample in samples.items():
            best = int(sample.pred_score.argmax())
            said[name] = f'{_class(classes, best)} ({float(sample.pred_score[best]):.2f})'
        # the picture is the same for all
        return {'picture': (_fit(image), '; '.join(f'{name}: {text}' for name, text in said.items()))}
    if kind == 'detection':
        return _detections(image, samples, classes, dataset, index)
    return _label_maps(image, samples, classes, dataset)


def _detections(image, samples: dict, classes: list[str], dataset, index: int) -> dict:
    from mmdet.structures import DetDataSample
    from mmdet.visualization import DetLocalVisualizer

    drawer = DetLocalVisualizer(name=f'report_{index}')
    drawer.dataset_meta = dict(classes=classes, palette=(dataset.metainfo or {}).get('palette'))
    boxes = truth_of(dataset, index)
    kept = ~boxes['ignored']
    true = InstanceData(bboxes=torch.from_numpy(boxes['boxes'][kept]), labels=torch.from_numpy(boxes['labels'][kept]))
    found = {'truth': (DetDataSample(gt_instances=true), f'{kept.sum()} boxes')}
    for name, sample in samples.items():
        sample = sample.cpu()
        shown = int((sample.pred_instances.scores > SCORE).sum())
        found[name] = (sample, f'{shown} detections above {SCORE:g}')
    return {
        name: (_fit(_drawn(drawer, image, sample, name == 'truth', pred_score_thr=SCORE)), said)
        for name, (sample, said) in found.items()
    }


def _label_maps(image, samples: dict, classes: list[str], dataset) -> dict:
    from mmseg.visualization import SegLocalVisualizer

    drawer = SegLocalVisualizer(name='report')
    palette = (dataset.metainfo or {}).get('palette')
    drawer.set_dataset_meta(classes=classes, palette=palette)
    true = samples['student'].cpu()
    # what is ignored is no class and has no colour: it is drawn like the first, and said
    labels = true.gt_sem_seg.data
    ignored = float((labels >= len(classes)).float().mean())
    shown = type(true)(gt_sem_seg=type(true.gt_sem_seg)(data=labels.where(labels < len(classes), labels.new_zeros(()))))
    found = {'truth': (shown, f'{ignored:.0%} ignored, drawn as {classes[0]}' if ignored else '')}
    for name, sample in samples.items():
        sample = sample.cpu()
        right = (sample.pred_sem_seg.data == labels)[labels < len(classes)].float().mean()
        found[name] = (sample, f'{float(right):.0%} of the pixels right')
    return {
        name: (_fit(_drawn(drawer, image, sample, name == 'truth', with_labels=False)), said)
        for name, (sample, said) in found.items()
    }


def _drawn(drawer, image, sample, truth: bool, **options) -> np.ndarray:
    """What a visualizer makes of a sample."""
    drawer.add_datasample('report', image, sample, draw_gt=truth, draw_pred=not truth, show=False, **options)
    return drawer.get_image()


def _fit(image: np.ndarray) -> np.ndarray:
    """The picture at a size that a page wants; small ones keep their pixels as squares."""
    longest = max(image.shape[:2])
    if longest > LARGEST:
        return mmcv.imrescale(image, (LARGEST, LARGEST), interpolation='area')
    if longest < SMALLEST:
        return np.kron(image, np.ones((SMALLEST // longest, SMALLEST // longest, 1), dtype=image.dtype))
    return image


def _class(classes: list[str], label: int) -> str:
    return str(classes[label]) if label < len(classes) else str(label)
