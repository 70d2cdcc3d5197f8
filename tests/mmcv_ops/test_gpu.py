"""The ops that DINO, Mask2Former and deformable backbones call, on a GPU against the CPU: values and gradients."""

import pytest
import torch
from mmcv import ops
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
SIZES = (12, 10), (6, 5)


def both(op, *tensors):
    """What ``op`` gives, and the gradients of its floating-point tensors, on the CPU and on the GPU."""
    found = []
    for device in ('cpu', 'cuda'):
        given = [t.to(device) for t in tensors]
        leaves = [t.requires_grad_() for t in given if t.is_floating_point()]
        outs = op(*given)
        outs = outs if isinstance(outs, (tuple, list)) else [outs]
        grads = torch.autograd.grad(sum(out.square().sum() for out in outs), leaves)
        found.append([x.detach().cpu() for x in (*outs, *grads)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures('standin')
def test_deformable_attention():
    """DINO, Deformable DETR, and the pixel decoder of Mask2Former."""
    sizes, start = torch.tensor(SIZES), torch.tensor([0, 120])
    value = torch.randn(2, 150, 8, 32)
    locations = torch.rand(2, 20, 8, 2, 4, 2) * 1.2 - 0.1
    weights = torch.rand(2, 20, 8, 2, 4)
    attend = MultiScaleDeformableAttnFunction.apply
    both(lambda v, at, w: attend(v, sizes.to(v.device), start.to(v.device), at, w, 64), value, locations, weights)


@pytest.mark.usefixtures('standin')
def test_deformable_convolution():
    x, weight = torch.randn(2, 4, 9, 8), torch.randn(6, 4, 3, 3)
    offset, mask = torch.randn(2, 18, 9, 8), torch.rand(2, 9, 9, 8)
    both(lambda x, o, m, w: ops.modulated_deform_conv2d(x, o, m, w, None, 1, 1, 1, 1, 1), x, offset, mask, weight)


@pytest.mark.usefixtures('standin')
def test_roi_align():
    boxes = torch.tensor([[0.0, 1, 2, 30, 40], [1, 5, 5, 20, 60]])
    both(lambda x: ops.roi_align(x, boxes.to(x.device), (7, 7), 0.25, 2, 'avg', True), torch.randn(2, 3, 16, 16))


@pytest.mark.usefixtures('standin')
def test_focal_loss():
    target = torch.randint(5, (12,))
    both(lambda x: ops.sigmoid_focal_loss(x, target.to(x.device), 2.0, 0.25, None, 'none'), torch.randn(12, 5))


@pytest.mark.usefixtures('standin')
def test_point_sampling():
    """Mask2Former's losses look at points of the masks."""
    both(ops.point_sample, torch.randn(2, 3, 16, 16), torch.rand(2, 40, 2))


@pytest.mark.usefixtures('standin')
def test_nms():
    corners = torch.rand(50, 2) * 20
    boxes, scores = torch.cat([corners, corners + 10], 1), torch.rand(50)
    kept = [ops.nms(boxes.to(d), scores.to(d), 0.5)[1].cpu() for d in ('cpu', 'cuda')]
    assert torch.equal(*kept) and 1 < len(kept[0]) < 50
