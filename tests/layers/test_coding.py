"""The encoder before, and the readout behind a spiking network."""

import pytest
import torch

from mmsnn.layers import DirectEncoder, Readout, fold, unfold


class TestDirectEncoder:
    @pytest.mark.parametrize('T', [1, 4])
    def test_image_is_repeated(self, T):
        x = torch.randn(3, 2, 5, 5)
        out = DirectEncoder(T)(x)
        assert out.shape == (T * 3, 2, 5, 5)
        assert all(torch.equal(step, x) for step in unfold(out, T))

    def test_event_frames_keep_their_steps(self):
        x = torch.randn(3, 4, 2, 5, 5)
        out = DirectEncoder(4)(x)
        for t in range(4):
            for b in range(3):
                assert torch.equal(out[t * 3 + b], x[b, t])

    def test_gradient_is_the_sum_over_steps(self):
        x = torch.randn(2, 3, 4, 4, requires_grad=True)
        weights = torch.randn(5 * 2, 3, 4, 4)
        (DirectEncoder(5)(x) * weights).sum().backward()
        torch.testing.assert_close(x.grad, unfold(weights, 5).sum(0))

    def test_repeat_may_come_later(self):
        encoder, norm = DirectEncoder(3), torch.nn.Conv2d(2, 4, 3)
        x = torch.randn(2, 2, 5, 5)
        torch.testing.assert_close(encoder.repeat(norm(x)), norm(encoder(x)))

    def test_errors(self):
        with pytest.raises(
            ValueError, match=r'\(2, 3, 2, 5, 5\) hold 3 time steps, the backbone has T=4: set backbone.T'
        ):
            DirectEncoder(4)(torch.zeros(2, 3, 2, 5, 5))
        for shape in ((2, 3, 4), (1, 2, 4, 2, 5, 5)):
            with pytest.raises(ValueError, match='expected images.*or event frames'):
                DirectEncoder(4)(torch.zeros(shape))
        with pytest.raises(ValueError, match='T must be at least 1'):
            DirectEncoder(0)


class TestReadout:
    def test_mean_is_the_rate(self):
        x = torch.randn(4, 3, 2, 5)
        torch.testing.assert_close(Readout(4)(fold(x)), sum(x) / 4)

    def test_none_leaves_time(self):
        x = torch.randn(12, 2)
        assert torch.equal(Readout(4, 'none')(x), x)

    def test_errors(self):
        with pytest.raises(ValueError, match="readout must be one of mean, none, got 'last'"):
            Readout(4, 'last')
        with pytest.raises(ValueError, match='T=4 does not divide'):
            Readout(4)(torch.zeros(6, 2))
