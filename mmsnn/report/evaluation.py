"""Figures by class and by image of a pass over a validation or test set; the libraries count, here is collected."""

import contextlib
import io
import runpy
from functools import cache
from pathlib import Path

import numpy as np
import torch

from .data import spread

# detections below it are no part of a confusion matrix, as in mmdet's tools
SCORE = 0.3
# of COCO's 101 recalls
EVERY = 2
# so many images of detections are judged one by one, evenly spread
JUDGED = 500


def kind_of(sample) -> str | None:
    """``detection``, ``segmentation`` or ``classification``; None where a sample of data holds nothing of these."""
    if 'pred_instances' in sample and 'bboxes' in sample.pred_instances:
        return 'detection'
    if 'pred_sem_seg' in sample and 'gt_sem_seg' in sample:
        return 'segmentation'
    if 'pred_score' in sample and 'gt_label' in sample and sample.gt_label.numel() == 1:
        return 'classification'
    return None


def counted(metrics: list, images: int) -> list:
    """Of the last images, the areas by class that mmseg's IoUMetric has counted already; None for each without it."""
    found: list = next((m.results for m in metrics if type(m).__name__ == 'IoUMetric' and len(m.results) >= images), [])
    return found[-images:] or [None] * images


def digest(sample, classes: int, ignore_index: int, areas: tuple | None = None) -> dict:
    """What is kept of one image: boxes, four areas a class, or one score.

    Args:
        sample: with prediction and truth, as the task libraries give it.
        classes: number of classes.
        ignore_index: label of pixels that do not count.
        areas: of a segmentation, intersection, union, prediction and truth, where these are counted already.
    """
    kind = kind_of(sample)
    if kind == 'detection':
        found = sample.pred_instances.cpu()
        boxes = found.bboxes.tensor if hasattr(found.bboxes, 'tensor') else found.bboxes
        item = dict(boxes=boxes.numpy(), scores=found.scores.numpy(), labels=found.labels.numpy())
    elif kind == 'segmentation':
        if areas is None:
            from mmseg.evaluation import IoUMetric

            prediction, truth = (getattr(sample, key).data.squeeze().cpu() for key in ('pred_sem_seg', 'gt_sem_seg'))
            areas = IoUMetric.intersect_and_union(prediction, truth, classes, ignore_index)
        item = dict(areas=torch.stack(areas).cpu().numpy().astype(np.int64))
    elif kind == 'classification':
        scores, truth = sample.pred_score.float().cpu(), int(sample.gt_label)
        item = dict(truth=truth, found=int(scores.argmax()), score=float(scores[truth]))
    else:
        raise ValueError('neither boxes, nor label maps, nor scores with one label: no table by class is made of these')
    return dict(item, kind=kind, path=sample.get('img_path'))


def truth_of(dataset, index: int) -> dict[str, np.ndarray]:
    """Boxes ``[N, 4]``, labels and whether they are ignored, of an image of a detection dataset."""
    instances = dataset.get_data_info(index)['instances']
    return dict(
        boxes=np.array([one['bbox'] for one in instances], dtype=np.float32).reshape(-1, 4),
        labels=np.array([one['bbox_label'] for one in instances], dtype=np.int64),
        ignored=np.array([one.get('ignore_flag', 0) for one in instances], dtype=bool),
    )


def summarise(items: list[dict], dataset, classes: list[str]) -> tuple[dict, dict[int, float]]:
    """Tables by class, and how well images are predicted, from 0 to 1, by their index: `JUDGED` of detections, or all.

    Args:
        items: `digest` of every image, in the order of the dataset.
        dataset: knows the true boxes.
        classes: their names.
    """
    kind = items[0]['kind']
    if kind == 'classification':
        return _classification(items, classes)
    if kind == 'segmentation':
        return _segmentation(items, classes)
    return _detection(items, [truth_of(dataset, i) for i in range(len(items))], classes)


def _classification(items: list[dict], classes: list[str]) -> tuple[dict, dict[int, float]]:
    from mmpretrain.evaluation import ConfusionMatrix, SingleLabelMetric

    found, truth = (torch.tensor([item[key] for item in items]) for key in ('found', 'truth'))
    confusion = ConfusionMatrix.calculate(found, truth, num_classes=len(classes))
    columns = SingleLabelMetric.calculate(found, truth, average=None, num_classes=len(classes))[:3]
    rows = [
        dict(name=name, images=int(confusion[i].sum()), **{
            key: float(column[i]) for key, column in zip(('precision', 'recall', 'f1'), columns)})
        for i, name in enumerate(classes)
    ]  # fmt: skip
    said = dict(kind='classification', classes=rows, names=classes, confusion=confusion.tolist())
    return said, {i: item['score'] for i, item in enumerate(items)}


def _segmentation(items: list[dict], classes: list[str]) -> tuple[dict, dict[int, float]]:
    areas = np.stack([item['areas'] for item in items])
    total = areas.sum(0)
    with np.errstate(divide='ignore', invalid='ignore'):
        iou, accuracy = 100 * total[0] / total[1], 100 * total[0] / total[3]
        each = areas[:, 0] / np.where(areas[:, 1], areas[:, 1], np.nan)
    rows = [
        dict(name=name, pixels=int(total[3][i]), IoU=_number(iou[i]), Acc=_number(accuracy[i]))
        for i, name in enumerate(classes)
    ]
    scores = [float(np.nanmean(image)) if not np.isnan(image).all() else 1.0 for image in each]
    return dict(kind='segmentation', classes=rows), dict(enumerate(scores))


def _number(value) -> float | None:
    return None if np.isnan(value) else float(value)


def _detection(items: list[dict], truths: list[dict], classes: list[str]) -> tuple[dict, dict[int, float]]:
    rows, curves = _average_precisions(items, truths, classes)
    said = dict(kind='detection', classes=rows, curves=curves, names=[*classes, 'background'])
    said['confusion'] = _detection_confusion(items, truths, len(classes))
    return said, {i: _image_score(items[i], truths[i]) for i in spread(len(items), JUDGED)}


def _average_precisions(items: list[dict], truths: list[dict], classes: list[str]) -> tuple[list[dict], dict]:
    """Average precision of each class as COCO counts it, and precision over recall at an overlap of 0.5."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    number = iter(range(1, 10**9))
    annotations = [
        dict(
            id=next(number), image_id=i, category_id=int(label), bbox=_xywh(box), iscrowd=int(ignored), area=_area(box)
        )
        for i, truth in enumerate(truths)
        for box, label, ignored in zip(truth['boxes'], truth['labels'], truth['ignored'])
    ]
    found = [
        dict(image_id=i, category_id=int(label), bbox=_xywh(box), score=float(score))
        for i, item in enumerate(items)
        for box, label, score in zip(item['boxes'], item['labels'], item['scores'])
    ]
    # it prints what it does
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = dict(
            images=[dict(id=i) for i in range(len(items))],
            annotations=annotations,
            categories=[dict(id=i, name=name) for i, name in enumerate(classes)],
        )
        data.createIndex()
        precision = None
        if found and annotations:
            evaluation = COCOeval(data, data.loadRes(found), 'bbox')
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ['all']
            evaluation.params.maxDets = [1000]
            evaluation.evaluate()
            evaluation.accumulate()
            # [overlaps, recalls, classes]; -1 where a class has no boxes
            precision = evaluation.eval['precision'][..., 0, 0]
    counts = np.bincount([one['category_id'] for one in annotations], minlength=len(classes))
    rows, curves = [], {}
    for i, name in enumerate(classes):
        values = precision[..., i] if precision is not None else np.zeros((10, 101))
        there = counts[i] > 0 and (values > -1).any()
        rows.append(
            dict(
                name=name,
                boxes=int(counts[i]),
                AP=float(values[values > -1].mean()) if there else None,
                AP50=float(values[0].mean()) if there else None,
            )
        )
        if there:
            curves[name] = [round(float(v), 4) for v in values[0][::EVERY]]
    return rows, curves


def _xywh(box) -> list[float]:
    x1, y1, x2, y2 = map(float, box)
    return [x1, y1, x2 - x1, y2 - y1]


def _area(box) -> float:
    _, _, width, height = _xywh(box)
    return width * height


@cache
def _mmdet_tool():
    """mmdet's own confusion matrix, which it ships as a tool; None where it was installed without its tools."""
    import mmdet

    path = Path(mmdet.__file__).parent / '.mim/tools/analysis_tools/confusion_matrix.py'
    return runpy.run_path(str(path))['analyze_per_img_dets'] if path.is_file() else None


def _detection_confusion(items: list[dict], truths: list[dict], classes: int) -> list[list[int]] | None:
    analyse = _mmdet_tool()
    if analyse is None:
        return None
    matrix = np.zeros((classes + 1, classes + 1))
    for item, truth in zip(items, truths):
        boxes, labels = (truth[key][~truth['ignored']] for key in ('boxes', 'labels'))
        instances = [dict(bbox=box, bbox_label=label) for box, label in zip(boxes, labels)]
        result = {key: torch.from_numpy(item[of]) for key, of in dict(bboxes='boxes', labels='labels').items()}
        if not instances:
            # mmdet's tool wants one; every detection is a false one
            kept = item['labels'][item['scores'] >= SCORE]
            matrix[-1, :-1] += np.bincount(kept, minlength=classes)[:classes]
            continue
        analyse(matrix, instances, dict(result, scores=torch.from_numpy(item['scores'])), score_thr=SCORE)
    return matrix.astype(int).tolist()


def _image_score(item: dict, truth: dict) -> float:
    """Mean average precision, at an overlap of 0.5, of the detections that a picture of the image shows.

    1 where there is nothing to find and nothing is found.
    """
    from mmdet.evaluation import eval_map

    kept = item['scores'] >= SCORE
    occurring = np.unique(np.concatenate([truth['labels'], item['labels'][kept]]))
    if not len(occurring):
        return 1.0
    detected = np.hstack([item['boxes'], item['scores'][:, None]]).astype(np.float32)
    by_class = [detected[kept & (item['labels'] == label)] for label in occurring]
    place = {label: k for k, label in enumerate(occurring)}
    labels, ignored = np.array([place[label] for label in truth['labels']], dtype=np.int64), truth['ignored']
    one = dict(
        bboxes=truth['boxes'][~ignored],
        labels=labels[~ignored],
        bboxes_ignore=truth['boxes'][ignored],
        labels_ignore=labels[ignored],
    )
    found = float(eval_map([by_class], [one], logger='silent')[0])
    # a class that is not there at all has no average precision: its detections count as a share of all classes
    absent = len(set(occurring.tolist()) - set(truth['labels'][~ignored].tolist()))
    return found * (1 - absent / len(occurring))


def extremes(scores: dict[int, float], count: int) -> tuple[list[int], list[int]]:
    """Keys of the ``count`` best scores, best first, and of as many of the worst, worst first; none is in both."""
    order = sorted(scores, key=lambda i: -scores[i])
    count = min(count, len(order) // 2) if len(order) > 1 else len(order)
    return order[:count], order[: -count - 1 : -1] if len(order) > 1 else []
