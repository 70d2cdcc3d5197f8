"""The data preprocessor of event frames."""

import math

import torch
import torch.nn.functional as F
from mmdet.models.utils.misc import samplelist_boxtype2tensor
from mmdet.structures import DetDataSample
from mmpretrain.models.utils import ClsDataPreprocessor

from mmsnn.registry import MODELS


@MODELS.register_module()
class EventDataPreprocessor(ClsDataPreprocessor):
    """Stacks event frames ``[T, C, H, W]`` to float ``[B, T, C, H, W]``, for classifiers and detectors.

    Nothing is normalised, because counts of events have no mean colour. Frames of unequal size are padded with zeros on
    the right and at the bottom. The preprocessors of the task libraries would take frames for images ``[C, H, W]`` and
    pad the wrong dimensions.

    Args:
        pad_size_divisor: H and W of the batch are multiples of it.
        to_onehot, num_classes, batch_augments: as in mmpretrain's ClsDataPreprocessor; mixup and cutmix treat the
            frames of a sample as one image of T*C channels.

    Raises:
        ValueError: in the forward pass, an input is not ``[T, C, H, W]``, or T or C differ within a batch.
    """

    def __init__(
        self,
        pad_size_divisor: int = 1,
        to_onehot: bool = False,
        num_classes: int | None = None,
        batch_augments: dict | None = None,
    ):
        super().__init__(to_onehot=to_onehot, num_classes=num_classes, batch_augments=batch_augments)
        self.pad_size_divisor = pad_size_divisor

    def forward(self, data: dict, training: bool = False) -> dict:
        """Batch ``inputs`` (a list or a stacked tensor) and ``data_samples`` in the form that models take."""
        frames, samples = list(self.cast_data(data['inputs'])), data.get('data_samples')
        shapes = {tuple(x.shape[:-2]) for x in frames}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            raise ValueError(
                'EventDataPreprocessor stacks frames [T, C, H, W] of equal T and C, got '
                f'{", ".join(str(tuple(x.shape)) for x in frames)}: see the dataset and its pipeline'
            )
        padded = [self._padded(x.shape[-2:]) for x in frames]
        size = tuple(max(sides) for sides in zip(*padded))
        if isinstance(samples[0] if samples else None, DetDataSample):
            samples = self.cast_data(samples)
            for sample, shape in zip(samples, padded):
                sample.set_metainfo(dict(batch_input_shape=size, pad_shape=shape))
            samplelist_boxtype2tensor(samples)
        batch = torch.stack([F.pad(x.float(), (0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2])) for x in frames])
        # The parent's batch augmentations need four dimensions, of which the last two are H and W.
        data = super().forward(dict(inputs=batch.flatten(1, 2), data_samples=samples), training)
        return dict(data, inputs=data['inputs'].unflatten(1, batch.shape[1:3]))

    def _padded(self, size) -> tuple[int, int]:
        return tuple(math.ceil(side / self.pad_size_divisor) * self.pad_size_divisor for side in size)
