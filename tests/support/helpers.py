"""What several test files use."""

import copy

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.structures import InstanceData, PixelData
from torch import nn

from mmsnn.layers import get_time_steps
from mmsnn.models import EventDataPreprocessor


def build_model(cfg: Config, size: int = 64) -> nn.Module:
    """The model of a whole config as the runner builds it, initialised at random, a teacher's weights too.

    Call under the config's default scope. ``size`` replaces the fixed image size that segmentors pad to.
    """
    model = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    if 'teacher_checkpoint' in model:
        model.teacher_checkpoint = None
    model = MODELS.build(model)
    teacher = getattr(model, 'teacher', None)
    for network in [model] if teacher is None else [model, teacher.model]:
        for module in network.modules():
            if isinstance(getattr(module, 'init_cfg', None), dict) and module.init_cfg.get('type') == 'Pretrained':
                module.init_cfg = None
    if getattr(model.data_preprocessor, 'size', None):
        model.data_preprocessor.size = (size, size)
    model.init_weights()
    return model


def noise_batch(model: nn.Module, batch_size: int = 3, size: int = 64) -> dict:
    """Noise, images or event frames, with labels, as a data loader gives it to a classifier, segmentor or detector."""
    images = [_noise(model, size) for _ in range(batch_size)]
    if hasattr(model, 'decode_head'):
        make = _segmentation
    elif hasattr(model, 'bbox_head') or hasattr(model, 'roi_head'):
        make = _detection
    else:
        make = _classification
    samples = [make(model, size) for _ in images]
    for sample in samples:
        sample.set_metainfo(dict(img_shape=(size, size), ori_shape=(size, size), scale_factor=(1.0, 1.0)))
    return dict(inputs=images, data_samples=samples)


def _noise(model, size):
    if isinstance(model.data_preprocessor, EventDataPreprocessor):
        return torch.poisson(torch.ones(get_time_steps(model), 2, size, size))
    return torch.randint(256, (3, size, size), dtype=torch.uint8)


def _classification(model, size):
    from mmpretrain.structures import DataSample

    return DataSample().set_gt_label(torch.randint(model.head.num_classes, (1,)))


def _segmentation(model, size):
    from mmseg.structures import SegDataSample

    labels = torch.randint(model.decode_head.num_classes, (1, size, size))
    labels[:, :8] = model.decode_head.ignore_index
    return SegDataSample(gt_sem_seg=PixelData(data=labels))


def _detection(model, size):
    from mmdet.structures import DetDataSample

    head = model.bbox_head if hasattr(model, 'bbox_head') else model.roi_head.bbox_head
    corners = torch.rand(2, 2) * size / 2
    boxes = torch.cat([corners, corners + size / 4], dim=1)
    labels = torch.randint(head.num_classes, (2,))
    instances = InstanceData(bboxes=boxes, labels=labels)
    if hasattr(model, 'roi_head') and model.roi_head.with_mask:
        from mmdet.structures.mask import BitmapMasks

        instances.masks = BitmapMasks(np.random.randint(0, 2, (2, size, size), dtype=np.uint8), size, size)
    return DetDataSample(gt_instances=instances)
