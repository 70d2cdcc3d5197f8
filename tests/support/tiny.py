"""Task models small enough for tests, as ANN and as SNN, with noise to train on."""

import torch
from mmengine.hub import get_config
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch.utils.data import Dataset

CLASSES = 5
SPIKING = dict(type='mmsnn.SEWResNet', depth=18, base_channels=8, T=2, out_indices=(0, 1, 2, 3))
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def classifier(spiking: bool, head: dict | None = None, data_preprocessor: dict | None = None, **backbone) -> dict:
    """Config of an mmpretrain classifier on a ResNet-18 of an eighth of the width."""
    ann = dict(type='mmpretrain.ResNet', depth=18, base_channels=8, stem_channels=8, out_indices=(0, 1, 2, 3))
    return dict(
        type='mmpretrain.ImageClassifier',
        backbone={**(SPIKING if spiking else ann), **backbone},
        neck=dict(type='GlobalAveragePooling'),
        head={**dict(type='LinearClsHead', num_classes=CLASSES, in_channels=64), **(head or {})},
        data_preprocessor=data_preprocessor
        or dict(type='mmpretrain.ClsDataPreprocessor', mean=MEAN, std=STD, to_rgb=True),
    )


def detector(spiking: bool, **backbone) -> dict:
    """Config of an mmdet RetinaNet on a ResNet-18 of an eighth of the width."""
    model = get_config('mmdet::_base_/models/retinanet_r50_fpn.py').model.to_dict()
    ann = dict(type='mmdet.ResNet', depth=18, base_channels=8, norm_eval=False)
    model['type'] = 'mmdet.RetinaNet'
    model['data_preprocessor']['type'] = 'mmdet.DetDataPreprocessor'
    model['backbone'] = {**(SPIKING if spiking else ann), **backbone}
    model['neck'].update(in_channels=[8, 16, 32, 64], out_channels=16, num_outs=4)
    model['bbox_head'].update(num_classes=CLASSES, in_channels=16, feat_channels=16, stacked_convs=1)
    model['bbox_head']['anchor_generator']['strides'] = [8, 16, 32, 64]
    return model


class Noise(Dataset):
    """So many images of noise with labels, always the same."""

    metainfo = dict(classes=tuple('abcde'))

    def __init__(self, task: str, length: int = 8, size: int = 64):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(256, (length, 3, size, size), dtype=torch.uint8, generator=generator)
        self.labels = torch.randint(CLASSES, (length,), generator=generator)
        self.task = task

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict:
        return dict(inputs=self.images[i], data_samples=self.sample(i))

    def sample(self, i: int):
        """Label of image ``i``."""
        if self.task == 'mmpretrain':
            from mmpretrain.structures import DataSample

            return DataSample().set_gt_label(self.labels[i])
        from mmdet.structures import DetDataSample

        size = self.images.shape[-1]
        boxes = torch.tensor([[4.0, 8.0, 40.0, 36.0], [20.0, 24.0, 60.0, 60.0]])
        sample = DetDataSample(gt_instances=InstanceData(bboxes=boxes, labels=self.labels[[i, i - 1]]))
        sample.set_metainfo(dict(img_shape=(size, size), ori_shape=(size, size), scale_factor=(1.0, 1.0)))
        return sample

    def batch(self, *indices: int) -> dict:
        """Some images as a data loader gives them."""
        items = [self[i] for i in indices]
        return {key: [item[key] for item in items] for key in items[0]}


def runner(model: dict, task: str, work_dir, iterations: int = 20, val_interval: int = 1000, **kwargs) -> Runner:
    """A runner that trains ``model`` on noise, batches of 2, with checkpoints after every 10 iterations.

    ``kwargs`` replace its arguments.
    """
    usual = dict(
        train_dataloader=dict(
            dataset=Noise(task), batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False)
        ),
        train_cfg=dict(by_epoch=False, max_iters=iterations, val_interval=val_interval),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=10),
            logger=dict(type='LoggerHook', interval=1),
        ),
        randomness=dict(seed=0),
        default_scope=task,
        log_level='ERROR',
        # the name of a visualizer that exists only once
        experiment_name=f'{work_dir}',
    )
    return Runner(model=model, work_dir=str(work_dir), **{**usual, **kwargs})
