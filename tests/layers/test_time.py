"""Folding time into the batch and back."""

import pytest
import torch

from mmsnn.layers import fold, unfold


def test_time_is_outermost():
    x = torch.arange(6.0).view(3, 2, 1)
    assert fold(x).flatten().tolist() == [0, 1, 2, 3, 4, 5]
    # image b at step t lies at t * B + b
    assert fold(x)[2 * 2 + 1].item() == x[2, 1].item()
    assert torch.equal(unfold(fold(x), 3), x)


@pytest.mark.parametrize('T', [1, 2, 6])
def test_there_and_back(T):
    x = torch.randn(6, 4, 5)
    assert unfold(x, T).shape == (T, 6 // T, 4, 5)
    assert torch.equal(fold(unfold(x, T)), x)


def test_unfolded_is_refused():
    with pytest.raises(ValueError, match=r'T=4 does not divide.*\(6, 2\): time is not folded'):
        unfold(torch.zeros(6, 2), 4)
