"""Pooling of regions: against formulas, and against a compiled mmcv where there is one."""

import math

import pytest
import torch
from mmcv import ops

from mmsnn.mmcv_ops.roi import roi_align_backward, roi_align_forward


def maps_and_rois(seed=0, dtype=torch.float32):
    """Maps ``[2, 3, 9, 11]`` and rois on a stride of 4, some past the border, one without area."""
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(12, 2, generator=g) * 40 - 6
    size = torch.rand(12, 2, generator=g) * 20
    size[0] = 0
    index = torch.randint(0, 2, (12, 1), generator=g).float()
    return torch.randn(2, 3, 9, 11, generator=g).to(dtype), torch.cat([index, corner, corner + size], 1).to(dtype)


class TestRoIAlign:
    @pytest.mark.parametrize('aligned', [True, False])
    def test_one_bin_is_the_mean_of_its_samples(self, aligned):
        # On a plane, bilinear samples are the plane's values and their mean is the value at the centre.
        y, x = torch.meshgrid(torch.arange(9.0), torch.arange(11.0), indexing='ij')
        rois = torch.tensor([[0, 8.0, 8.0, 24.0, 20.0]])
        got = ops.roi_align((2 * x + 5 * y)[None, None], rois, (1, 1), 0.25, 2, 'avg', aligned)
        shift = 0.5 if aligned else 0.0
        assert got.item() == pytest.approx(2 * (4 - shift) + 5 * (3.5 - shift))

    @pytest.mark.parametrize('ratio', [0, 2])
    def test_gradient(self, ratio):
        maps, rois = maps_and_rois(dtype=torch.float64)
        maps.requires_grad_()
        assert torch.autograd.gradcheck(lambda m: ops.roi_align(m, rois[:4], (2, 3), 0.25, ratio, 'avg', True), maps)

    @pytest.mark.usefixtures('standin')
    def test_half_precision_is_sampled_in_float32(self):
        maps, rois = maps_and_rois()
        for dtype in (torch.float16, torch.bfloat16):
            stored = maps.to(dtype).requires_grad_()
            got = ops.roi_align(stored, rois, 2, 0.25, 0, 'avg', True)
            assert torch.equal(got, ops.roi_align(stored.detach().float(), rois, 2, 0.25, 0, 'avg', True).to(dtype))
            got.sum().backward()
            assert stored.grad.dtype == dtype

    @pytest.mark.usefixtures('standin')
    def test_maximum_is_refused(self):
        maps, rois = maps_and_rois()
        with pytest.raises(RuntimeError, match='max.*compiled mmcv'):
            ops.roi_align(maps, rois, 2, 0.25, 0, 'max', True)


@pytest.mark.usefixtures('standin')
class TestRoIPool:
    """mmcv compiles it for the GPU alone."""

    def test_equals_the_definition(self):
        maps, rois = maps_and_rois(dtype=torch.float64)
        maps.requires_grad_()
        got = ops.roi_pool(maps, rois, (3, 2), 0.25)
        expected = torch.zeros(len(rois), 3, 3, 2, dtype=torch.float64)
        for r, (image, *box) in enumerate(rois.tolist()):
            x1, y1, x2, y2 = box[0] / 4, box[1] / 4, (box[2] + 1) / 4, (box[3] + 1) / 4
            for i in range(3):
                for j in range(2):
                    top, bottom = y1 + i * (y2 - y1) / 3, y1 + (i + 1) * (y2 - y1) / 3
                    left, right = x1 + j * (x2 - x1) / 2, x1 + (j + 1) * (x2 - x1) / 2
                    rows = slice(max(math.floor(top), 0), max(math.ceil(bottom), 0))
                    columns = slice(max(math.floor(left), 0), max(math.ceil(right), 0))
                    bin = maps[int(image), :, rows, columns].flatten(1)
                    if bin.size(1):
                        expected[r, :, i, j] = bin.max(1).values
        torch.testing.assert_close(got, expected)
        cotangent = torch.randn_like(got)
        grads = [torch.autograd.grad(out, maps, cotangent)[0] for out in (got, expected)]
        torch.testing.assert_close(*grads)

    def test_of_equal_values_the_first_has_the_gradient(self):
        maps = torch.ones(1, 1, 4, 4, requires_grad=True)
        ops.roi_pool(maps, torch.tensor([[0.0, 0, 0, 3, 3]]), 2, 1.0).sum().backward()
        assert maps.grad.nonzero().tolist() == [[0, 0, y, x] for y in (0, 2) for x in (0, 2)]

    def test_without_area_or_rois(self):
        maps, rois = maps_and_rois()
        maps.requires_grad_()
        inverted = torch.tensor([[0.0, 8, 8, 2, 2]])
        for some in (inverted, rois[:0]):
            out = ops.roi_pool(maps, some, 2, 0.25)
            assert out.shape == (len(some), 3, 2, 2) and not out.any()
            assert not torch.autograd.grad(out.sum(), maps)[0].any()

    def test_half_precision(self):
        maps, rois = maps_and_rois()
        stored = maps.half().requires_grad_()
        got = ops.roi_pool(stored, rois.half(), 2, 0.25)
        assert torch.equal(got, ops.roi_pool(stored.detach().float(), rois.half().float(), 2, 0.25).half())
        assert torch.autograd.grad(got.sum(), stored)[0].dtype == torch.float16


@pytest.mark.usefixtures('standin')
class TestDeformRoIPool:
    """mmcv compiles it for the GPU alone."""

    @pytest.mark.parametrize('ratio', [0, 2])
    def test_without_offsets_it_is_roi_align(self, ratio):
        maps, rois = maps_and_rois(dtype=torch.float64)
        maps.requires_grad_()
        none = torch.zeros(len(rois), 2, 3, 2, dtype=torch.float64)
        expected = ops.roi_align(maps, rois, (3, 2), 0.25, ratio, 'avg', True)
        cotangent = torch.randn_like(expected)
        (grad,) = torch.autograd.grad(expected, maps, cotangent)
        for offset in (None, none):
            got = ops.deform_roi_pool(maps, rois, offset, (3, 2), 0.25, ratio, 0.1)
            torch.testing.assert_close(got, expected)
            torch.testing.assert_close(torch.autograd.grad(got, maps, cotangent)[0], grad)

    def test_offsets_are_shares_of_the_roi(self):
        maps, _ = maps_and_rois(dtype=torch.float64)
        roi = torch.tensor([[1, 4.0, 8, 28, 24]], dtype=torch.float64)
        # Of a width of 24 and a height of 16, as x and y.
        offset = torch.tensor([0.5, -1.0], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 3, 2)
        moved = roi + 0.2 * torch.tensor([0, 12.0, -16, 12, -16])
        got = ops.deform_roi_pool(maps, roi, offset.contiguous(), (3, 2), 0.25, 2, 0.2)
        torch.testing.assert_close(got, ops.roi_align(maps, moved, (3, 2), 0.25, 2, 'avg', True))

    def test_each_bin_moves_alone(self):
        maps, rois = maps_and_rois(dtype=torch.float64)
        offset = torch.zeros(len(rois), 2, 3, 2, dtype=torch.float64)
        offset[:, :, 1, 0] = 0.7
        still, moved = (ops.deform_roi_pool(maps, rois, o, (3, 2), 0.25, 2, 0.1) for o in (0 * offset, offset))
        changed = (still != moved).any(0).any(0)
        assert changed.tolist() == [[False, False], [True, False], [False, False]]

    def test_gradient(self):
        maps, _ = maps_and_rois(dtype=torch.float64)
        rois = torch.tensor([[0, 6.0, 6, 30, 25], [1, 9, 3, 20, 28]], dtype=torch.float64)
        offset = torch.rand(2, 2, 2, 2, dtype=torch.float64)
        leaves = [maps.requires_grad_(), offset.requires_grad_()]
        assert torch.autograd.gradcheck(
            lambda m, o: ops.deform_roi_pool(m, rois, o, 2, 0.25, 2, 0.1), leaves, fast_mode=True
        )

    def test_without_rois(self):
        maps, rois = maps_and_rois()
        maps.requires_grad_()
        out = ops.deform_roi_pool(maps, rois[:0], torch.zeros(0, 2, 2, 2), 2, 0.25, 0, 0.1)
        assert out.shape == (0, 3, 2, 2)
        assert not torch.autograd.grad(out.sum(), maps)[0].any()


@pytest.mark.usefixtures('compiled')
class TestAgainstCompiled:
    @pytest.mark.parametrize('aligned', [True, False])
    @pytest.mark.parametrize('ratio', [0, 2])
    def test_roi_align(self, ratio, aligned):
        maps, rois = maps_and_rois()
        maps.requires_grad_()
        expected = ops.roi_align(maps, rois, (3, 2), 0.25, ratio, 'avg', aligned)
        cotangent = torch.randn_like(expected)
        expected.backward(cotangent)
        settings = dict(
            aligned_height=3, aligned_width=2, spatial_scale=0.25, sampling_ratio=ratio, pool_mode=1, aligned=aligned
        )
        got, grad, none = torch.empty_like(expected), torch.empty_like(maps), maps.new_empty(0)
        roi_align_forward(maps.detach(), rois, got, none, none, **settings)
        roi_align_backward(cotangent, rois, none, none, grad, **settings)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(grad, maps.grad)
