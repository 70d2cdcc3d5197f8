"""Resized: the inner backbone on resized images, under its own names."""

import pytest
import torch
from mmpretrain.models import VisionTransformer
from torch.nn import functional as F

from mmsnn.models import Resized

VIT = dict(
    type='mmpretrain.VisionTransformer',
    arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32),
    img_size=32,
    patch_size=8,
)


def test_inner_backbone_sees_the_size():
    model = Resized(VIT, size=32)
    model.init_weights()
    model.eval()
    x = torch.randn(3, 3, 12, 20)
    expected = model.backbone(F.interpolate(x, (32, 32), mode='bilinear'))
    assert torch.equal(model(x)[0], expected[0]) and expected[0].shape == (3, 16)
    x = torch.randn(3, 3, 32, 32)
    assert torch.equal(model(x)[0], model.backbone(x)[0])


def test_names_are_the_inner_backbones():
    model = Resized(VIT, size=32)
    other = VisionTransformer(**{k: v for k, v in VIT.items() if k != 'type'})
    assert model.state_dict().keys() == other.state_dict().keys()
    model.load_state_dict(other.state_dict())
    assert torch.equal(model.cls_token, other.cls_token)
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in other.named_parameters()]


def test_init_cfg_is_the_inner_backbones(tmp_path):
    source = Resized(VIT, size=32)
    torch.nn.init.constant_(source.backbone.cls_token, 3.0)
    file = tmp_path / 'vit.pth'
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in source.state_dict().items()}), file)
    model = Resized(VIT, size=32, init_cfg=dict(type='Pretrained', checkpoint=str(file), prefix='backbone'))
    model.init_weights()
    assert (model.cls_token == 3).all()


@pytest.mark.parametrize('size', [0, (224, 224), 224.0])
def test_size(size):
    with pytest.raises(ValueError, match='backbone.size must be a positive int'):
        Resized(VIT, size=size)
