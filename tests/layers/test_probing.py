"""What a network is asked before it runs."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmsnn.layers import blank_image, image_channels


class Late(nn.Module):
    """The convolution that images meet first was made last, and is not the one of the fewest channels."""

    def __init__(self):
        super().__init__()
        self.narrow = nn.Conv2d(2, 2, 1)
        self.stem = nn.Conv2d(4, 2, 3)

    def forward(self, x):
        return self.narrow(self.stem(x))


@pytest.mark.parametrize(
    'cfg, channels',
    [
        (dict(type='mmdet.ResNet', depth=18, base_channels=8), 3),
        (dict(type='mmdet.ResNet', depth=18, base_channels=8, in_channels=1), 1),
        (dict(type='mmdet.CSPDarknet', deepen_factor=0.33, widen_factor=0.125), 3),
        (dict(type='mmdet.MobileNetV2', widen_factor=0.25), 3),
        (dict(type='mmpretrain.VisionTransformer', arch='deit-tiny', img_size=64), 3),
        (dict(type='mmsnn.SEWResNet', depth=18, base_channels=8, T=2, in_channels=2), 2),
        (
            dict(
                type='mmsnn.Spikify',
                backbone=dict(type='mmdet.CSPDarknet', deepen_factor=0.33, widen_factor=0.125),
                T=2,
            ),
            3,
        ),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else value,
)
def test_channels(cfg, channels):
    """Of a backbone, and of a task model around it."""
    backbone = MODELS.build(cfg)
    whole = nn.Module()
    whole.backbone = backbone
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    assert image_channels(backbone) == image_channels(whole) == channels
    assert blank_image(whole, 16).shape == (1, channels, 16, 16)
    assert backbone.training and all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
    assert not any(m._forward_pre_hooks for m in backbone.modules() if isinstance(m, nn.Conv2d))


def test_the_first_that_is_met():
    assert image_channels(Late()) == 4


def test_no_convolution():
    """T2T-ViT's first layer cuts its images into patches."""
    patches = nn.Sequential(nn.Unfold(4, stride=4), nn.Flatten(), nn.Linear(3 * 16 * 4, 3))
    assert image_channels(patches) == 3 and patches(blank_image(patches, 8)).shape == (1, 3)
