"""Attention over places of maps: against plain loops, and against a compiled mmcv where there is one."""

import pytest
import torch
from mmcv import ops
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction, multi_scale_deformable_attn_pytorch


@pytest.mark.usefixtures('standin')
class TestDeformable:
    SIZES = ((4, 5), (2, 3))

    def tensors(self, dtype=torch.float64, batch=2):
        """Value ``[B, keys, heads 2, 3]``, locations ``[B, 4, 2, levels, points 3, 2]``, some outside, and weights."""
        value = torch.randn(batch, sum(h * w for h, w in self.SIZES), 2, 3, dtype=dtype)
        locations = torch.rand(batch, 4, 2, 2, 3, 2, dtype=dtype) * 1.4 - 0.2
        weights = torch.rand(batch, 4, 2, 2, 3, dtype=dtype)
        return [t.requires_grad_() for t in (value, locations, weights)]

    def attend(self, value, locations, weights):
        sizes = torch.tensor(self.SIZES)
        start = torch.tensor([0, 20])
        return MultiScaleDeformableAttnFunction.apply(value, sizes, start, locations, weights, 64)

    def test_equals_the_definition(self):
        value, locations, weights = (t.detach() for t in self.tensors())
        got = self.attend(value, locations, weights).view(2, 4, 2, 3)
        for b, q, head in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(2)).tolist():
            total, start = torch.zeros(3, dtype=torch.float64), 0
            for level, (height, width) in enumerate(self.SIZES):
                keys = value[b, start : start + height * width, head].view(height, width, 3)
                start += height * width
                for point in range(3):
                    x, y = (locations[b, q, head, level, point] * torch.tensor([width, height]) - 0.5).tolist()
                    for i in range(height):
                        for j in range(width):
                            near = max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j))
                            total += weights[b, q, head, level, point] * near * keys[i, j]
            torch.testing.assert_close(got[b, q, head], total)

    def test_gradient_is_that_of_the_form_for_the_cpu(self):
        leaves = self.tensors()
        out = self.attend(*leaves)
        cotangent = torch.randn_like(out)
        plain = multi_scale_deformable_attn_pytorch(leaves[0], torch.tensor(self.SIZES), *leaves[1:])
        for a, b in zip(
            torch.autograd.grad(out, leaves, cotangent), torch.autograd.grad(plain, leaves, cotangent), strict=True
        ):
            torch.testing.assert_close(a, b)

    def test_no_images(self):
        leaves = self.tensors(batch=0)
        out = self.attend(*leaves)
        assert out.shape == (0, 4, 6)
        assert torch.autograd.grad(out.sum(), leaves)[0].shape == leaves[0].shape

    def test_half_precision_is_computed_in_float32(self):
        # mmcv rounds locations and weights to the value's precision.
        leaves = [t.detach().half().requires_grad_() for t in self.tensors()]
        out = self.attend(*leaves)
        expected = self.attend(*(t.detach().float() for t in leaves))
        assert torch.equal(out, expected.half())
        assert all(g.dtype == torch.float16 for g in torch.autograd.grad(out.float().sum(), leaves))


class TestPSAMask:
    @pytest.mark.parametrize('kind', ['collect', 'distribute'])
    @pytest.mark.parametrize('size', [(3, 5), (7, 7), (4, 2)])
    def test_equals_the_definition(self, size, kind):
        masks = torch.randn(2, size[0] * size[1], 4, 3, dtype=torch.float64, requires_grad=True)
        got = ops.PSAMask(kind, size)(masks)
        expected = torch.zeros(2, 4, 3, 4, 3, dtype=torch.float64)
        for i, j, h, w in torch.cartesian_prod(*(torch.arange(n) for n in (*size, 4, 3))).tolist():
            # The entry (i, j) of the mask centred on (h, w) speaks of the place (y, x).
            y, x = h + i - (size[0] - 1) // 2, w + j - (size[1] - 1) // 2
            if 0 <= y < 4 and 0 <= x < 3:
                entry = masks[:, i * size[1] + j, h, w]
                expected[(slice(None), y, x, h, w) if kind == 'collect' else (slice(None), h, w, y, x)] = entry
        torch.testing.assert_close(got, expected.view(2, 12, 4, 3))
        cotangent = torch.randn_like(got)
        (grad,) = torch.autograd.grad(got, masks, cotangent)
        (plain,) = torch.autograd.grad(expected.view(2, 12, 4, 3), masks, cotangent)
        torch.testing.assert_close(grad, plain)

    @pytest.mark.usefixtures('compiled')
    @pytest.mark.parametrize('kind', ['collect', 'distribute'])
    @pytest.mark.parametrize('size', [(3, 5), (9, 9)])
    def test_against_compiled(self, size, kind, ours):
        masks = torch.randn(2, size[0] * size[1], 5, 4, requires_grad=True)
        expected = ops.PSAMask(kind, size)(masks)
        cotangent = torch.randn_like(expected)
        (grad,) = torch.autograd.grad(expected, masks, cotangent)
        ours('psa_mask')
        got = ops.PSAMask(kind, size)(masks)
        assert torch.equal(got, expected)
        assert torch.equal(torch.autograd.grad(got, masks, cotangent)[0], grad)
