"""The convolution at chosen places. mmcv compiles it for the GPU alone."""

import pytest
import torch
from mmcv import ops

pytestmark = pytest.mark.usefixtures('standin')


@pytest.mark.parametrize('kernel, padding', [(3, 1), (1, 0), ((3, 5), (1, 2))])
def test_is_a_convolution_where_the_mask_is(kernel, padding):
    conv = ops.MaskedConv2d(3, 4, kernel, padding=padding)
    x, mask = torch.randn(1, 3, 6, 7), torch.rand(1, 6, 7) - 0.5
    got = conv(x, mask)
    torch.testing.assert_close(got, conv(x) * (mask > 0))
    assert got.any() and not got.all()


def test_empty_mask():
    conv = ops.MaskedConv2d(3, 4, 3, padding=1)
    assert not conv(torch.randn(1, 3, 6, 7), torch.zeros(1, 6, 7)).any()
