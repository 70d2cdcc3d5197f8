"""A backbone that sees its images at another size."""

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor

from mmsnn.checkpoints.loading import init_inner
from mmsnn.registry import MODELS

from .wrapper import Transparent


@MODELS.register_module()
class Resized(Transparent, BaseModule):
    """Any backbone behind a bilinear resizing of its images, for teachers that know larger ones than the student.

    BKD's ViT on CIFAR looks at 224 pixels. The inner backbone's parameter names stay.

    Args:
        backbone: config of any registered backbone.
        size: height and width that it sees.
        init_cfg: replaces the inner backbone's.

    Raises:
        ValueError: ``size`` is no positive int.
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
        """Images ``[B, C, H, W]`` to the inner backbone's outputs."""
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode='bilinear')
        return self.backbone(x)
