"""Deformable convolutions: against plain ones, and against a compiled mmcv where there is one."""

import pytest
import torch
import torch.nn.functional as F
from mmcv import ops

from mmsnn.mmcv_ops.deform_conv import Geometry, convolve, gradients

SETTINGS = {
    'plain': dict(),
    'stride': dict(stride=2, padding=1),
    'uneven': dict(kernel=(1, 3), stride=(1, 2), padding=(0, 2), dilation=(1, 2)),
    'groups': dict(padding=1, groups=2),
    'deform groups': dict(padding=2, dilation=2, deform_groups=4),
    'both groups': dict(stride=(2, 1), padding=(0, 1), groups=4, deform_groups=2),
}
each_setting = pytest.mark.parametrize('setting', SETTINGS)


def pair(x):
    return x if isinstance(x, tuple) else (x, x)


def tensors(setting, batch=2, dtype=torch.float32, scale=1.0):
    """Input ``[B, 8, 7, 9]``, offset, mask, weight and bias of the setting, and the arguments after them."""
    kernel, stride, padding, dilation = (
        pair(setting.get(name, default))
        for name, default in (('kernel', (3, 3)), ('stride', 1), ('padding', 0), ('dilation', 1))
    )
    groups, deform_groups = setting.get('groups', 1), setting.get('deform_groups', 1)
    out = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip((7, 9), kernel, stride, padding, dilation)]
    places = deform_groups * kernel[0] * kernel[1]
    x = torch.randn(batch, 8, 7, 9)
    offset = scale * torch.randn(batch, 2 * places, *out)
    mask = torch.rand(batch, places, *out)
    weight, bias = torch.randn(4, 8 // groups, *kernel), torch.randn(4)
    args = (stride, padding, dilation, groups, deform_groups)
    return [t.to(dtype).requires_grad_() for t in (x, offset, mask, weight, bias)], args


def deform(x, offset, mask, weight, bias, args, step=32):
    return ops.deform_conv2d(x, offset, weight, *args, False, step)


def modulated(x, offset, mask, weight, bias, args):
    return ops.modulated_deform_conv2d(x, offset, mask, weight, bias, *args)


def result(op, leaves, *args):
    """Output and gradients of ``op``, at a cotangent that depends on the output's shape alone."""
    out = op(*leaves, *args)
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(7)).to(out.dtype)
    return out, *torch.autograd.grad(out, leaves, cotangent, allow_unused=True)


@each_setting
class TestWithoutOffsets:
    """Without offsets, and a mask of ones, both are convolutions."""

    @pytest.mark.parametrize('op', [deform, modulated])
    def test_is_a_convolution(self, op, setting):
        leaves, args = tensors(SETTINGS[setting], scale=0.0)
        x, _, _, weight, bias = leaves
        with torch.no_grad():
            leaves[2].fill_(1)
        stride, padding, dilation, groups, _ = args
        used = [0, 3, 4] if op is modulated else [0, 3]
        plain = F.conv2d(x, weight, bias if op is modulated else None, stride, padding, dilation, groups)
        out, *grads = result(op, leaves, args)
        torch.testing.assert_close(out, plain, atol=1e-5, rtol=1e-5)
        cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(7))
        for i, grad in zip(used, torch.autograd.grad(plain, [leaves[i] for i in used], cotangent)):
            torch.testing.assert_close(grads[i], grad, atol=1e-4, rtol=1e-4)


class TestGradient:
    @each_setting
    @pytest.mark.parametrize('op', [deform, modulated])
    def test_all(self, op, setting):
        leaves, args = tensors(SETTINGS[setting], dtype=torch.float64, scale=0.3)
        # Whole positions, where bilinear sampling has a kink, are far: offsets are 0.2 to 0.4.
        with torch.no_grad():
            leaves[1].copy_(0.2 + 0.2 * torch.rand_like(leaves[1]))
        used = range(5) if op is modulated else (0, 1, 3)

        def function(*chosen):
            values = list(leaves)
            for i, value in zip(used, chosen):
                values[i] = value
            return op(*values, args)

        assert torch.autograd.gradcheck(function, [leaves[i] for i in used], fast_mode=True)

    def test_only_the_weight(self):
        (x, offset, mask, weight, bias), args = tensors(SETTINGS['groups'])
        (full,) = torch.autograd.grad(deform(x, offset, mask, weight, bias, args).sum(), weight, retain_graph=True)
        frozen = deform(x.detach(), offset.detach(), mask, weight, bias, args)
        torch.testing.assert_close(torch.autograd.grad(frozen.sum(), weight)[0], full)

    def test_of_two_cotangents(self):
        (x, offset, mask, weight, bias), args = tensors(SETTINGS['stride'])
        out = deform(x, offset, mask, weight, bias, args)
        once = torch.autograd.grad(out, [x, weight], torch.ones_like(out), retain_graph=True)
        twice = torch.autograd.grad(out, [x, weight], 2 * torch.ones_like(out))
        for a, b in zip(once, twice):
            torch.testing.assert_close(2 * a, b)

    @pytest.mark.parametrize('op', [deform, modulated])
    def test_none_by_offsets_on_the_padding(self, op):
        # Without offsets, a padding of 1 puts the first row and column of samples one pixel outside.
        leaves, args = tensors(dict(padding=1), scale=0.0)
        grad = result(op, leaves, args)[2].unflatten(1, (3, 3, 2))
        assert not grad[:, 0, :, :, 0].any() and not grad[:, :, 0, :, :, 0].any()
        assert grad[:, 1:, :, :, 0].any() and grad[:, 0, :, :, 1].any()


class TestShapes:
    def test_offsets_of_a_larger_map_are_read_from_their_beginning(self):
        # DyHead computes offsets on one map and uses them on another.
        (x, offset, mask, weight, bias), args = tensors(dict(padding=1, stride=2))
        large = [torch.randn(2, t.size(1), 7, 9, requires_grad=True) for t in (offset, mask)]
        read = [big.flatten(1)[:, : t[0].numel()].view_as(t) for big, t in zip(large, (offset, mask))]
        assert large[0].shape[2:] != offset.shape[2:]
        leaves = [x, *large, weight, bias]
        out, *grads = result(modulated, leaves, args)
        expected = result(lambda x, o, m, w, b: modulated(x, *read, w, b, args), leaves)
        for a, b in zip((out, *grads), expected):
            torch.testing.assert_close(a, b)

    # a compiled mmcv reads such memory as if it were contiguous
    @pytest.mark.usefixtures('standin')
    def test_strided_offsets(self):
        leaves, args = tensors(SETTINGS['plain'])
        expected = result(modulated, leaves, args)
        strided = [leaf.detach().to(memory_format=torch.channels_last) for leaf in leaves[:3]]
        strided = [leaf.requires_grad_() for leaf in strided] + leaves[3:]
        for a, b in zip(result(modulated, strided, args), expected):
            torch.testing.assert_close(a, b)

    @pytest.mark.usefixtures('standin')
    def test_offsets_of_a_smaller_map_are_refused(self):
        (x, offset, mask, weight, bias), args = tensors(SETTINGS['plain'])
        for small in ((offset[..., 1:], mask), (offset, mask[..., 1:])):
            with pytest.raises(ValueError, match='is too small'):
                modulated(x, *small, weight, bias, args)

    def test_no_images(self):
        # mmcv's Python refuses them before it calls an op.
        leaves, args = tensors(SETTINGS['plain'], batch=0)
        x, offset, mask, weight, bias = (leaf.detach() for leaf in leaves)
        geometry = Geometry(x, weight, *map(pair, args[:3]), *args[3:])
        out = convolve(geometry, x, weight, offset, mask, bias)
        assert out.shape == (0, 4, 5, 7)
        grads = gradients(geometry, out, x, weight, offset, mask)
        assert [g.shape for g in grads[:4]] == [t.shape for t in (x, weight, offset, mask)]
        assert not grads[1].any()

    @pytest.mark.usefixtures('standin')
    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize('op', [deform, modulated])
    def test_half_precision_is_computed_in_float32(self, op, dtype):
        leaves, args = tensors(SETTINGS['groups'], dtype=dtype)
        wide = [leaf.detach().float().requires_grad_() for leaf in leaves]
        for a, b in zip(op(*leaves, args), op(*wide, args)):
            assert torch.equal(a, b.to(dtype))
        grads = torch.autograd.grad(op(*leaves, args).float().sum(), leaves[0])
        assert grads[0].dtype == dtype


@pytest.mark.usefixtures('compiled')
class TestAgainstCompiled:
    @each_setting
    @pytest.mark.parametrize('scale', [0.0, 1.0, 4.0])
    @pytest.mark.parametrize('op', [deform, modulated])
    def test_values_and_gradients(self, op, scale, setting, ours):
        leaves, args = tensors(SETTINGS[setting], scale=scale)
        expected = result(op, leaves, args)
        ours('deform_conv' if op is deform else 'modulated_deform_conv')
        self.compare(result(op, leaves, args), expected)

    @pytest.mark.parametrize('step', [1, 2, 32])
    def test_images_at_a_time(self, step, ours):
        leaves, args = tensors(SETTINGS['groups'], batch=4)
        expected = result(deform, leaves, args, step)
        ours('deform_conv')
        self.compare(result(deform, leaves, args, step), expected)

    def test_offsets_of_a_larger_map(self, ours):
        leaves, args = tensors(dict(padding=1, stride=2))
        leaves[1:3] = [torch.randn(2, t.size(1), 7, 9, requires_grad=True) for t in leaves[1:3]]
        expected = result(modulated, leaves, args)
        ours('modulated_deform_conv')
        self.compare(result(modulated, leaves, args), expected)

    @pytest.mark.parametrize('op', [deform, modulated])
    def test_half_precision(self, op, ours):
        leaves, args = tensors(SETTINGS['groups'], dtype=torch.float16)
        expected = op(*leaves, args)
        ours('deform_conv' if op is deform else 'modulated_deform_conv')
        torch.testing.assert_close(op(*leaves, args), expected, atol=0.05, rtol=0.01)

    @staticmethod
    def compare(got, expected):
        for a, b in zip(got, expected, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
