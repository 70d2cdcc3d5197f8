"""Losses on features, worked out number by number."""

import math
from itertools import product

import pytest
import torch
from formulas import approx, maps, mean, wave

from mmsnn.distill import PKD, Affine, AffineMSE, AttentionMSE, BlurMSE, FeatureMSE


def test_sakd_released_code():
    """SAKD's feature_loss (imagenet/loss_kd.py, commit 70c761d), run apart from this on the same tensors."""
    stages = [(wave(2, 3, 4, 4), wave(2, 3, 4, 4, phase=1.0)), (wave(2, 5, 2, 2), wave(2, 5, 2, 2, phase=1.0))]
    assert FeatureMSE()(*zip(*stages)).item() == pytest.approx(3.659494597969231, rel=1e-5)


class TestBlurMSE:
    def test_formula(self):
        """Summed over everything but the batch."""
        s, t = maps(2, 3, 4, 5), maps(2, 3, 4, 5)
        expected = sum((a - b) ** 2 for a, b in zip(s.flatten().tolist(), t.flatten().tolist())) / 2
        assert BlurMSE()([s], [t]).item() == pytest.approx(expected, **approx)

    def test_against_the_mean_over_all_elements(self):
        """C * H * W times SAKD's reduction."""
        s, t = maps(3, 4, 5, 6), maps(3, 4, 5, 6)
        assert BlurMSE()([s], [t]).item() == pytest.approx(4 * 5 * 6 * FeatureMSE()([s], [t]).item(), **approx)

    def test_by_hand(self):
        s, t = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[0.0, 4.0], [0.0, 1.0]])
        # (1 + 4) / 2
        assert BlurMSE()([s], [t]).item() == 2.5


class TestAttentionMSE:
    @staticmethod
    def attention(x, p):
        """The rows of normalised attention, as lists."""
        rows = []
        for image in x:
            C, H, W = image.shape
            q = [mean(abs(image[c, h, w].item()) ** p for c in range(C)) for h, w in product(range(H), range(W))]
            rows.append([v / math.sqrt(sum(u * u for u in q)) for v in q])
        return rows

    @pytest.mark.parametrize('p', [1.0, 2.0])
    def test_formula(self, p):
        """Channels are summed out, so widths may differ; mean over layers."""
        layers = [(maps(2, 3, 4, 5), maps(2, 7, 4, 5)), (maps(2, 6, 2, 2), maps(2, 4, 2, 2))]
        expected = []
        for s, t in layers:
            pairs = [(a, b) for x, y in zip(self.attention(s, p), self.attention(t, p)) for a, b in zip(x, y)]
            expected.append(mean((a - b) ** 2 for a, b in pairs))
        assert AttentionMSE(p)(*zip(*layers)).item() == pytest.approx(mean(expected), **approx)

    def test_default_is_the_square(self):
        s, t = maps(2, 3, 4, 4), maps(2, 3, 4, 4)
        assert AttentionMSE()([s], [t]) == AttentionMSE(2.0)([s], [t])

    def test_scale_does_not_matter(self):
        s = maps(2, 3, 4, 4)
        assert AttentionMSE()([s], [7 * s]).item() == pytest.approx(0, abs=1e-9)

    @pytest.mark.parametrize('larger', ['student', 'teacher'])
    def test_the_larger_map_is_resized(self, larger):
        """Bilinearly, which by a factor of 2 is the mean of four; the attention, not the feature."""
        small, large = maps(2, 3, 2, 3), maps(2, 5, 4, 6)
        q = large.square().mean(1)
        halved = (q[:, ::2, ::2] + q[:, 1::2, ::2] + q[:, ::2, 1::2] + q[:, 1::2, 1::2]) / 4
        expected = AttentionMSE()([small], [halved.sqrt()[:, None]]).item()
        pair = (large, small) if larger == 'student' else (small, large)
        assert AttentionMSE()([pair[0]], [pair[1]]).item() == pytest.approx(expected, **approx)


class TestAffineMSE:
    @pytest.mark.parametrize('shape', [(3, 4), (3, 4, 2, 5)])
    def test_formula(self, shape):
        """Squared distance over the width, mean over batch and positions."""
        s, t = maps(*shape), maps(*shape)
        rows = [x.movedim(1, -1).reshape(-1, 4).tolist() for x in (s, t)]
        expected = mean(sum((a - b) ** 2 for a, b in zip(x, y)) / 4 for x, y in zip(*rows))
        assert AffineMSE()([s], [t]).item() == pytest.approx(expected, **approx)

    def test_pooled(self):
        """Of maps of different sizes; the projector may lie before the pooling or behind it."""
        affine, s, t = Affine(3, 4).double(), maps(2, 3, 6, 6), maps(2, 4, 3, 5)
        expected = AffineMSE()([affine(s.mean((2, 3)))], [t.mean((2, 3))]).item()
        assert AffineMSE(pool=True)([affine(s)], [t]).item() == pytest.approx(expected, **approx)
        assert AffineMSE().same_shape and not AffineMSE(pool=True).same_shape


class TestPKD:
    def test_formula(self):
        """1 minus Pearson's correlation of each channel over batch and positions, mean over channels."""
        levels = [(maps(2, 3, 4, 5), maps(2, 3, 4, 5)), (maps(2, 3, 2, 2), maps(2, 3, 2, 2))]
        expected = 0.0
        for s, t in levels:
            s, t = (x.movedim(1, 0).flatten(1) for x in (s, t))
            expected += mean(1 - torch.corrcoef(torch.stack([a, b]))[0, 1].item() for a, b in zip(s, t))
        assert PKD()(*zip(*levels)).item() == pytest.approx(expected, **approx)

    def test_scale_and_shift_do_not_matter(self):
        s = maps(2, 3, 4, 4)
        assert PKD()([s], [5 * s + 2]).item() == pytest.approx(0, abs=1e-6)
        assert PKD()([s], [-s]).item() == pytest.approx(2, **approx)

    @pytest.mark.parametrize('constant', [0.0, 0.3])
    def test_constant_channels_do_not_learn(self, constant):
        """A silent channel has variance 0, whose root has an infinite gradient; the others learn as without it."""
        s, t = maps(2, 3, 4, 5).float(), maps(2, 3, 4, 5)
        s[:, 1] = constant
        s.requires_grad_()
        value = PKD()([s], [t])
        value.backward()
        others = s.detach()[:, ::2].clone().requires_grad_()
        alone = PKD()([others], [t[:, ::2]])
        alone.backward()
        # 1/2 for the channel, which is not correlated at all
        assert value.item() == pytest.approx((2 * alone.item() + 0.5) / 3, **approx)
        assert not s.grad[:, 1].any()
        torch.testing.assert_close(s.grad[:, ::2], others.grad * 2 / 3)
