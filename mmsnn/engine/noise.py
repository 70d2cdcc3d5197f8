"""Batches of noise with labels in the form of a data loader, for any model of mmdet, mmseg and mmpretrain."""

import copy

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate, pseudo_collate
from mmengine.registry import TRANSFORMS
from mmengine.structures import InstanceData, PixelData
from torch import nn

# Number of objects in an image.
OBJECTS = 3


def noise_batch(cfg: Config, model: nn.Module, batch_size: int = 3, size: int = 64) -> dict:
    """``batch_size`` images of noise with labels, for training and testing ``model``.

    Call it in the config's default scope. Detectors get boxes, masks, a semantic map and proposals; segmentors get
    label images; classifiers get a class, or several if their head takes several. Self-supervised models get the output
    of the config's own training pipeline for noise.

    Args:
        cfg: the whole config.
        model: the model of the config.
        batch_size: number of images, or of pairs of images for models that track objects.
        size: height and width of the images, and largest size of crops in a self-supervised pipeline.
    """
    kind = cfg.model.get('data_preprocessor', cfg.get('data_preprocessor') or {}).get('type', '')
    kind = kind if isinstance(kind, str) else kind.__name__
    if 'Track' in kind:
        return _videos(model, batch_size, size)
    if 'MultiBranch' in kind:
        branches = {name: _batch(_detection, model, batch_size, size) for name in ('sup', 'unsup_teacher')}
        branches['unsup_student'] = copy.deepcopy(branches['unsup_teacher'])
        return {key: {name: part[key] for name, part in branches.items()} for key in ('inputs', 'data_samples')}
    if 'ReID' in kind:
        return _identities(batch_size, size)
    scope = cfg.get('default_scope')
    if scope == 'mmdet':
        return _batch(_detection, model, batch_size, size)
    if scope == 'mmseg':
        return _batch(_segmentation, model, batch_size, size)
    if type(model).__module__.startswith('mmpretrain.models.selfsup'):
        return _views(cfg, batch_size, size)
    return _batch(_classification, model, batch_size, size)


def _batch(make, model: nn.Module, batch_size: int, size: int) -> dict:
    images = [_image(size, channels(model)) for _ in range(batch_size)]
    return dict(inputs=images, data_samples=[make(model, size, i) for i in range(batch_size)])


def channels(model: nn.Module) -> int:
    """Number of channels of a task model's images: the number of its preprocessor's means, or 3."""
    mean = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    return 3 if mean is None else mean.numel()


def _image(size: int, channels: int = 3) -> torch.Tensor:
    return torch.randint(256, (channels, size, size), dtype=torch.uint8)


def _classes(model: nn.Module, *names: str) -> int:
    """The smallest number of classes of the modules called ``names``; 1 (as for an RPN) if none has classes."""
    numbers = [_number(m) for n, m in model.named_modules() if any(name in n.split('.') for name in names)]
    return min([n for n in numbers if n], default=1)


def _number(module: nn.Module) -> int | None:
    given = getattr(module, 'num_things_classes', getattr(module, 'num_classes', None))
    return given if isinstance(given, int) and given > 0 else None


def _meta(size: int) -> dict:
    shape = (size, size)
    return dict(
        img_shape=shape, ori_shape=shape, pad_shape=shape, batch_input_shape=shape, scale_factor=(1.0, 1.0),
        flip=False, flip_direction=None, img_path='', img_id=0, homography_matrix=np.eye(3, dtype=np.float32),
    )  # fmt: skip


def _instances(size: int, classes: int) -> InstanceData:
    from mmdet.structures.mask import BitmapMasks

    corners = torch.rand(OBJECTS, 2) * size / 2
    boxes = torch.cat([corners, corners + size / 4 + torch.rand(OBJECTS, 2) * size / 4], dim=1)
    masks = np.zeros((OBJECTS, size, size), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist()):
        mask[top:bottom, left:right] = 1
    return InstanceData(
        bboxes=boxes, labels=torch.arange(OBJECTS) % classes, masks=BitmapMasks(masks, size, size),
        instances_ids=torch.arange(OBJECTS), areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
    )  # fmt: skip


def _detection(model: nn.Module, size: int, index: int):
    from mmdet.structures import DetDataSample

    classes = _classes(model, 'bbox_head', 'mask_head', 'panoptic_head', 'head')
    instances = _instances(size, classes)
    none = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    stuff = _classes(model, 'semantic_head', 'panoptic_head')
    # A semantic branch may need labels smaller than the image, which SegRescale in its pipeline makes.
    scale = next((m.seg_scale_factor for m in model.modules() if hasattr(m, 'seg_scale_factor')), 1)
    scale = (
        1 / 8 if hasattr(getattr(getattr(model, 'roi_head', None), 'semantic_head', None), 'fusion_level') else scale
    )
    sample = DetDataSample(
        gt_instances=instances,
        ignored_instances=none,
        gt_sem_seg=PixelData(sem_seg=torch.randint(stuff, (1, int(size * scale), int(size * scale)))),
        proposals=InstanceData(bboxes=instances.bboxes + 1, scores=torch.ones(OBJECTS)),
    )
    sample.set_metainfo({**_meta(size), 'img_id': index})
    return sample


def _segmentation(model: nn.Module, size: int, index: int):
    from mmseg.structures import SegDataSample

    labels = torch.randint(_classes(model, 'decode_head'), (1, size, size))
    sample = SegDataSample(
        gt_sem_seg=PixelData(data=labels),
        gt_edge_map=PixelData(data=torch.randint(2, (1, size, size))),
        gt_depth_map=PixelData(data=torch.rand(1, size, size) * 5 + 1),
    )
    sample.set_metainfo(_meta(size))
    return sample


def _classification(model: nn.Module, size: int, index: int):
    from mmpretrain.structures import DataSample

    head = getattr(model, 'head', None)
    # In LeNet and VGG the last layer belongs to the backbone.
    classes = _classes(model, 'head', 'backbone')
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    # Without num_classes (InceptionV3), the last layer gives the number.
    classes = layers[-1].out_features if classes == 1 and layers else classes
    if 'CSRA' in type(head).__name__:
        classes = head.csra_heads[0].head.out_channels
    several = 'MultiLabel' in type(head).__name__ or 'CSRA' in type(head).__name__
    sample = DataSample().set_gt_label([index % classes, (index + 1) % classes] if several else index % classes)
    sample.set_metainfo(dict(_meta(size), num_classes=classes))
    return sample


def _identities(batch_size: int, size: int) -> dict:
    from mmdet.structures import ReIDDataSample

    samples = [ReIDDataSample(metainfo=_meta(size)).set_gt_label(i % 2) for i in range(batch_size)]
    return dict(inputs=[_image(size) for _ in range(batch_size)], data_samples=samples)


def _videos(model: nn.Module, batch_size: int, size: int) -> dict:
    """Pairs of a key frame and a reference frame."""
    from mmdet.structures import TrackDataSample

    samples = []
    for _ in range(batch_size):
        frames = [_detection(model, size, 0) for _ in range(2)]
        for i, frame in enumerate(frames):
            frame.set_metainfo(dict(frame_id=i, ori_video_length=2))
        frames[1].gt_instances = copy.deepcopy(frames[0].gt_instances)
        sample = TrackDataSample(metainfo=dict(key_frames_inds=[0], ref_frames_inds=[1], ori_video_length=2))
        sample.video_data_samples = frames
        samples.append(sample)
    return dict(inputs=[torch.stack([_image(size) for _ in range(2)]) for _ in samples], data_samples=samples)


def _views(cfg: Config, batch_size: int, size: int) -> dict:
    """The output of a self-supervised model's training pipeline for noise; the pipeline makes views and masks."""
    dataset = copy.deepcopy(cfg.train_dataloader.dataset)
    while 'pipeline' not in dataset:
        dataset = dataset['dataset']
    _crop(dataset['pipeline'], size)
    pipeline = Compose([TRANSFORMS.build(t) for t in dataset['pipeline'] if 'Load' not in str(t['type'])])
    shape = (256, 256)
    images = [np.random.randint(256, size=(*shape, 3), dtype=np.uint8) for _ in range(batch_size)]
    meta = dict(img_shape=shape, ori_shape=shape, img_path='')
    results = [pipeline(dict(meta, img=image, sample_idx=i)) for i, image in enumerate(images)]
    collate = (cfg.train_dataloader.get('collate_fn') or {}).get('type')
    return default_collate(results) if collate == 'default_collate' else pseudo_collate(results)


def _crop(pipeline, size: int) -> None:
    """Limit the size of random crops to ``size`` in all views."""
    if isinstance(pipeline, dict):
        if 'Crop' in str(pipeline.get('type')) and isinstance(pipeline.get('scale'), int):
            pipeline['scale'] = min(size, pipeline['scale'])
        pipeline = pipeline.values()
    for part in pipeline:
        if isinstance(part, (dict, list, tuple)):
            _crop(part, size)
