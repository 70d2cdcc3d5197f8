"""CARAFE against its definition in loops. mmcv compiles it for the GPU alone."""

import pytest
import torch
from mmcv import ops

from mmsnn.mmcv_ops import carafe

pytestmark = pytest.mark.usefixtures('standin')
SETTINGS = [(3, 1, 2), (5, 2, 1), (1, 3, 3), (3, 2, 2)]


def tensors(kernel, groups, scale, dtype=torch.float64):
    features = torch.randn(2, 6, 3, 4, dtype=dtype)
    masks = torch.rand(2, kernel * kernel * groups, 3 * scale, 4 * scale, dtype=dtype)
    return features.requires_grad_(), masks.requires_grad_()


@pytest.mark.parametrize('op', [ops.carafe, ops.carafe_naive])
@pytest.mark.parametrize('setting', SETTINGS)
def test_equals_the_definition(setting, op):
    kernel, groups, scale = setting
    features, masks = (t.detach() for t in tensors(*setting))
    got = op(features, masks, *setting)
    for c, y, x in torch.cartesian_prod(torch.arange(6), torch.arange(3 * scale), torch.arange(4 * scale)).tolist():
        total = torch.zeros(2, dtype=torch.float64)
        for i in range(kernel):
            for j in range(kernel):
                at = y // scale + i - kernel // 2, x // scale + j - kernel // 2
                if 0 <= at[0] < 3 and 0 <= at[1] < 4:
                    weight = masks[:, (c // (6 // groups) * kernel + i) * kernel + j, y, x]
                    total += features[:, c, at[0], at[1]] * weight
        torch.testing.assert_close(got[:, c, y, x], total)


@pytest.mark.parametrize('setting', SETTINGS)
def test_gradient(setting):
    leaves = tensors(*setting)
    assert torch.autograd.gradcheck(lambda *x: ops.carafe(*x, *setting), leaves, fast_mode=True)
    # mmcv's Python refuses the naive form's backward pass on a CPU.
    cotangent = torch.randn_like(ops.carafe_naive(*leaves, *setting))
    naive = [torch.zeros_like(x) for x in leaves]
    carafe.carafe_naive_backward(
        cotangent, *leaves, *naive, **dict(zip(('kernel_size', 'group_size', 'scale_factor'), setting))
    )
    for a, b in zip(naive, torch.autograd.grad(ops.carafe(*leaves, *setting), leaves, cotangent), strict=True):
        torch.testing.assert_close(a, b)


def test_half_precision_is_computed_in_float32():
    leaves = [t.detach().half().requires_grad_() for t in tensors(3, 1, 2)]
    out = ops.carafe(*leaves, 3, 1, 2)
    assert torch.equal(out, ops.carafe(*(t.detach().float() for t in leaves), 3, 1, 2).half())
    assert all(g.dtype == torch.float16 for g in torch.autograd.grad(out.float().sum(), leaves))


def test_package():
    up = ops.CARAFEPack(channels=8, scale_factor=2)
    out = up(torch.randn(1, 8, 4, 5))
    out.sum().backward()
    assert out.shape == (1, 8, 8, 10)
    assert all(p.grad is not None for p in up.parameters())
