"""The parts of MMSyncBN against PyTorch's batch norm. mmcv compiles them for the GPU alone."""

import pytest
import torch
import torch.nn.functional as F
from mmcv.ops.sync_bn import SyncBatchNormFunction

pytestmark = pytest.mark.usefixtures('standin')


def sync_bn(x, mean, var, weight, bias):
    """On one process nothing is exchanged."""
    return SyncBatchNormFunction.apply(x, mean, var, weight, bias, 0.3, 1e-5, None, 1, 'default')


@pytest.mark.parametrize('shape', [(3, 4, 5, 2), (6, 4), (1, 4, 2, 2)])
def test_is_batch_norm(shape):
    x = torch.randn(shape).mul(2).add(1).requires_grad_()
    weight, bias = torch.rand(4, requires_grad=True), torch.randn(4, requires_grad=True)
    stats, expected_stats = ((torch.zeros(4), torch.ones(4)) for _ in range(2))
    # mmcv flattens the dimensions after the second, so there must be one.
    got = sync_bn(x if x.dim() > 2 else x[..., None], *stats, weight, bias).view(shape)
    expected = F.batch_norm(x, *expected_stats, weight, bias, True, 0.3, 1e-5)
    torch.testing.assert_close(got, expected)
    for a, b in zip(stats, expected_stats):
        torch.testing.assert_close(a, b)
    cotangent = torch.randn_like(got)
    grads = [torch.autograd.grad(out, [x, weight, bias], cotangent) for out in (got, expected)]
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
