"""A backbone that resizes its images first."""

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor

from mmsnn.checkpoints.loading import init_inner
from mmsnn.registry import MODELS

from .wrapper import Transparent


@MODELS.register_module()
class Resized(Transparent, BaseModule):
    """Any backbone with a bilinear resizing of its images, for teachers that need larger images than the student.

    An example is BKD's ViT on CIFAR, which takes images of 224 pixels. Parameters keep the inner backbone's names.

    Args:
        backbone: config of any registered backbone.
        size: height and width of the resized images.
        init_cfg: replaces the ``init_cfg`` of the inner backbone.

    Raises:
        ValueError: ``size`` is not a positive int.
    """

    inner = 'backbone'

    def __init__(self, backbone: dict, size: int, init_cfg: dict | None = None):
        if not isinstance(size, int) or size < 1:
            raise ValueError(f'backbone.size must be a positive int, got {size!r}')
        super().__init__()
        self.size = size
        self.backbone = ROOT_MODELS.build({**backbone, 'init_cfg': init_cfg} if init_cfg else backbone)
        self._make_transparent()

    def init_weights(self) -> None:
        """Initialise the inner backbone by its own rules."""
        init_inner(self.backbone)
        self._is_init = True

    def forward(self, x: Tensor):
        """The inner backbone's outputs for images ``[B, C, H, W]``."""
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode='bilinear')
        return self.backbone(x)
