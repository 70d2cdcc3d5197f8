"""Statistics of the labels of a training set: how many of each class, and how large its boxes are."""

import numpy as np
import torch
from mmengine.dataset import BaseDataset

# so many images are looked at, evenly spread; label images take longer to read
LISTED, READ = 20_000, 60


def describe(dataset) -> dict:
    """Counts by class, and sizes of boxes.

    Args:
        dataset: a `BaseDataset` of mmengine, or one in wrappers that hand ``get_data_info`` on.

    Returns:
        ``kind``, ``images`` (how many there are), ``looked_at``, ``classes`` (names with counts of images, boxes or
        pixels), and for boxes ``sides``, the square root of each area in pixels of the original image.

    Raises:
        ValueError: the samples hold no labels of a kind that is known.
    """
    info = _info(dataset, 0)
    names = list((dataset.metainfo or {}).get('classes') or ())
    if 'gt_label' in info:
        chosen = spread(len(dataset), LISTED)
        labels = [_info(dataset, i)['gt_label'] for i in chosen]
        labels = np.concatenate([np.atleast_1d(np.asarray(label)) for label in labels]).astype(int)
        return _said('classification', dataset, chosen, names, labels)
    if 'instances' in info:
        chosen = spread(len(dataset), LISTED)
        found = [one for i in chosen for one in _info(dataset, i)['instances'] if not one.get('ignore_flag')]
        labels = np.array([one['bbox_label'] for one in found], dtype=int)
        x1, y1, x2, y2 = np.array([one['bbox'] for one in found], dtype=float).reshape(-1, 4).T
        sides = np.sqrt(np.clip(x2 - x1, 0, None) * np.clip(y2 - y1, 0, None))
        said = _said('detection', dataset, chosen, names, labels)
        return said | dict(sides=[round(side, 1) for side in sides.tolist()])
    if 'seg_map_path' in info:
        base = _innermost(dataset)
        # a training has them in `NamedLabels`
        loads = (t for t in base.pipeline.transforms if 'LoadAnnotations' in type(getattr(t, 'load', t)).__name__)
        load = next(loads, None)
        if load is None:
            raise ValueError('no LoadAnnotations in the pipeline reads the label images')
        chosen = spread(len(dataset), READ)
        maps = [load.transform({**_info(dataset, i), 'seg_fields': []})['gt_seg_map'] for i in chosen]
        return _said('segmentation', dataset, chosen, names, np.concatenate([m.ravel() for m in maps]).astype(int))
    raise ValueError('its samples hold no labels, boxes or label images')


def _info(dataset, index: int) -> dict:
    if not hasattr(dataset, 'get_data_info'):
        raise ValueError(f'a {type(dataset).__name__} does not tell its labels (it has no get_data_info)')
    return dataset.get_data_info(index)


def _innermost(dataset) -> BaseDataset:
    while hasattr(dataset, 'dataset') or hasattr(dataset, 'datasets'):
        dataset = dataset.dataset if hasattr(dataset, 'dataset') else dataset.datasets[0]
    return dataset


def spread(length: int, count: int) -> list[int]:
    """At most ``count`` indices, evenly spread."""
    return torch.linspace(0, length - 1, min(length, count), dtype=torch.float64).round().long().unique().tolist()


def _said(kind: str, dataset, chosen: list[int], names: list[str], labels: np.ndarray) -> dict:
    # what is ignored lies beyond the classes
    labels = labels[(labels >= 0) & (labels < len(names))] if names else labels
    counts = np.bincount(labels, minlength=len(names)).tolist()
    names = names or [str(i) for i in range(len(counts))]
    return dict(kind=kind, images=len(dataset), looked_at=len(chosen), classes=dict(zip(map(str, names), counts)))
