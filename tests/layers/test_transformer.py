"""Parts of the spiking transformers that stand in one file: stochastic depth."""

import pytest
import torch

from mmsnn.layers import unfold
from mmsnn.layers.transformer import DropPath


class TestDropPath:
    @pytest.mark.parametrize('rate', [0.2, 0.75])
    def test_what_is_kept_makes_up_for_what_is_dropped(self, rate):
        """Whole images at all steps; the mean of many stays what it was."""
        T, images = 3, 20_000
        x = torch.rand(T * images, 1, 1, 2) + 1
        ratio = unfold(DropPath(rate, T).train()(x) / x, T)
        kept = ratio != 0
        assert (kept == kept[:1, :, :, :, :1]).all()
        torch.testing.assert_close(ratio[kept], torch.full_like(ratio[kept], 1 / (1 - rate)))
        # four standard deviations
        assert ratio.mean().item() == pytest.approx(1, abs=4 * (rate / (1 - rate) / images) ** 0.5)

    def test_is_nothing_in_evaluation_and_at_rate_0(self):
        x = torch.rand(6, 2)
        assert torch.equal(DropPath(0.5, 3).eval()(x), x) and torch.equal(DropPath(0.0, 3).train()(x), x)
