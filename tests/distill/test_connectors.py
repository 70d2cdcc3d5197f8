"""What brings a student's feature to the teacher's width."""

import pytest
import torch
from formulas import maps, wave
from torch import nn
from torch.nn import functional as F

from mmsnn.distill import Affine, BlurMSE, BlurRestore, ConvBN, WeakHead


class TestConvBN:
    @pytest.mark.parametrize('kernel', [1, 3])
    def test_is_sakds_projector(self, kernel):
        """Bias-free convolution, norm, no activation; the size stays."""
        conv, norm = ConvBN(4, 6, kernel)
        assert conv.bias is None and conv.kernel_size == (kernel, kernel) and norm.num_features == 6
        x = torch.randn(3, 4, 5, 5)
        out = ConvBN(4, 6, kernel)(x)
        assert out.shape == (3, 6, 5, 5) and out.min() < 0


class TestAffine:
    def test_formula(self):
        """``W h + b`` of a vector, and of a map at every position."""
        affine = Affine(3, 5).double()
        vector, map_ = maps(2, 3), maps(2, 3, 4, 6)
        weight, bias = affine.weight.tolist(), affine.bias.tolist()
        for out, x in ((affine(vector)[1], vector[1]), (affine(map_)[0, :, 2, 5], map_[0, :, 2, 5])):
            expected = [sum(w * h for w, h in zip(row, x.tolist())) + b for row, b in zip(weight, bias)]
            assert out.tolist() == pytest.approx(expected)
        assert affine(map_).shape == (2, 5, 4, 6)

    def test_commutes_with_pooling(self):
        affine, x = Affine(3, 5).double(), maps(2, 3, 4, 6)
        torch.testing.assert_close(affine(x).mean((2, 3)), affine(x.mean((2, 3))))


def test_weak_head():
    head, x = WeakHead(3, 5).double(), maps(2, 3, 4, 6)
    pooled = x[1].mean((1, 2)).tolist()
    expected = [sum(w * h for w, h in zip(row, pooled)) + b for row, b in zip(head.weight.tolist(), head.bias.tolist())]
    assert head(x).shape == (2, 5) and head(x)[1].tolist() == pytest.approx(expected)
    dense = WeakHead(3, 5, pool=False).double()
    dense.load_state_dict(head.state_dict())
    assert dense(x).shape == (2, 5, 4, 6)
    torch.testing.assert_close(dense(x).mean((2, 3)), head(x))


def fill(module: nn.Module) -> nn.Module:
    """Weights that are the same everywhere."""
    for i, parameter in enumerate(module.parameters()):
        parameter.data = 0.25 * wave(*parameter.shape, phase=float(i))
    return module


class TestBlurRestore:
    def test_masks_channels(self):
        """Whole channels of single samples, a share of ``ratio``; nothing rescaled."""
        connector = BlurRestore(200, 200)
        x = torch.rand(50, 200, 2, 3) + 0.5
        masked = connector.blur(x)
        kept = (masked == x).flatten(2)
        assert ((masked == 0).flatten(2) | kept).all() and torch.equal(kept.all(2), kept.any(2))
        share = 1 - kept.all(2).float()
        # 10,000 draws: the standard deviation of the share is 0.0036
        assert share.mean().item() == pytest.approx(0.15, abs=0.015)
        assert share.mean(0).std() > 0 and share.mean(1).std() > 0

    @pytest.mark.parametrize('mask, dim', [('spatial', 1), ('channel', 2), ('element', None)])
    def test_other_masks(self, mask, dim):
        kept = (BlurRestore(8, 8, ratio=0.5, mask=mask).blur(torch.ones(6, 8, 20)[..., None]) == 1)[..., 0]
        for d in (0, 1, 2):
            same = torch.equal(kept.all(d), kept.any(d))
            assert same == (d == dim)

    def test_eval_mode_masks_nothing(self):
        connector, x = BlurRestore(4, 6, ratio=0.5).eval(), torch.randn(3, 4, 5, 5)
        expected = connector.restore(connector.align(x))
        assert torch.equal(connector(x), expected) and not torch.equal(connector.train()(x), expected)

    def test_parts(self):
        """1x1 alignment in front of the mask only where widths differ; 3x3, ReLU, 3x3 with biases behind it."""
        same, other = BlurRestore(6, 6), BlurRestore(4, 6)
        assert isinstance(same.align, nn.Identity) and other.align.kernel_size == (1, 1)
        first, relu, last = other.restore
        assert isinstance(relu, nn.ReLU)
        for conv in (first, last):
            assert conv.weight.shape == (6, 6, 3, 3) and conv.bias is not None and conv.padding == (1, 1)
        x = torch.randn(2, 4, 5, 5)
        a = F.conv2d(x, other.align.weight, other.align.bias)
        hidden = F.conv2d(a, first.weight, first.bias, padding=1).clamp(min=0)
        torch.testing.assert_close(other.eval()(x), F.conv2d(hidden, last.weight, last.bias, padding=1))

    def test_tokens_are_maps(self):
        x = torch.randn(2, 4, 5, 5)
        for reduce in (None, 'mean'):
            connector = BlurRestore(4, 6, reduce=reduce).eval()
            out = connector(x)
            assert out.shape == ((2, 6, 5, 5) if reduce is None else (2, 6))
            rows = out if reduce else out.flatten(2)
            torch.testing.assert_close(connector(x.flatten(2)), rows)
            last = BlurRestore(4, 6, reduce=reduce, channel_dim=-1).eval()
            last.load_state_dict(connector.state_dict())
            torch.testing.assert_close(last(x.flatten(2).transpose(1, 2)), rows if reduce else rows.transpose(1, 2))

    def test_errors(self):
        for wrong in (dict(mask='pixel'), dict(reduce='sum'), dict(channel_dim=2)):
            with pytest.raises(ValueError, match='mask=channel.spatial.element'):
                BlurRestore(4, 4, **wrong)
        with pytest.raises(ValueError, match='17 tokens do not form a square'):
            BlurRestore(4, 4)(torch.zeros(2, 4, 17))

    @pytest.mark.parametrize(
        'widths, reduce, figure',
        [
            ((6, 6), None, 121.85236679478875),
            ((4, 6), None, 0.21530496023388496),
            ((4, 6), 'mean', 0.025788876602275343),
        ],
    )
    def test_released_code(self, widths, reduce, figure, monkeypatch):
        """Loss and connector against BKDSNN's BRDLoss, commit dd6bd53, run apart from this on the same tensors, weights
        and mask (alpha 2e-3, lambda 0.15, no clipping): cifar10dvs/loss.py for maps, Spikingformer-CML/imagenet/loss.py
        for the mean over positions.
        """
        connector = fill(BlurRestore(*widths, reduce=reduce).double())
        s = wave(3, widths[0], 4, 4).abs()
        t = wave(3, 6, phase=2.0) if reduce else wave(3, 6, 4, 4, phase=2.0).relu()

        def fixed(shape, **_):
            return (torch.arange(torch.Size(shape).numel(), dtype=torch.float64) * 0.37 % 1).view(shape)

        monkeypatch.setattr(torch, 'rand', fixed)
        assert 2e-3 * BlurMSE()([connector(s)], [t]).item() == pytest.approx(figure, rel=1e-5)


@pytest.mark.parametrize('connector', [ConvBN, Affine, BlurRestore])
def test_connectors_learn(connector):
    connector = connector(4, 6)
    x = torch.randn(3, 4, 5, 5, requires_grad=True)
    BlurMSE()([connector(x)], [torch.randn(3, 6, 5, 5)]).backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in connector.parameters() if p.dim() > 1)
