"""Norms of spiking networks."""

import pytest
import torch
from mmcv.cnn import build_norm_layer
from mmengine.registry import DefaultScope
from torch import nn

from mmsnn.layers import TDBN, TEBN, set_time_steps, unfold
from mmsnn.models import SpikingResNet
from mmsnn.neurons import LIF


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmdet', 'mmseg'])
@pytest.mark.parametrize('norm, kind', [('TDBN', TDBN), ('TEBN', TEBN)])
def test_are_norm_layers_of_every_library(scope, norm, kind):
    with DefaultScope.overwrite_default_scope(scope):
        name, layer = build_norm_layer(dict(type=f'mmsnn.{norm}', momentum=0.3, requires_grad=False), 6, postfix=2)
    assert name == 'bn2' and type(layer) is kind
    inner = layer if norm == 'TDBN' else layer.bn
    assert (inner.num_features, inner.momentum, inner.eps) == (6, 0.3, 1e-5)
    assert not any(p.requires_grad for p in layer.parameters())


class TestTDBN:
    def test_formula(self):
        """Over time, batch and positions at once; the weight starts at alpha * v_threshold."""
        x = torch.randn(4 * 2, 3, 5, 5, dtype=torch.float64) * 3 + 1
        out = TDBN(3, v_threshold=0.5, alpha=0.7).double()(x)
        for c in range(3):
            values = x[:, c]
            expected = 0.35 * (values - values.mean()) / (values.var(correction=0) + 1e-5).sqrt()
            torch.testing.assert_close(out[:, c], expected)

    def test_is_batch_norm_otherwise(self):
        norm, plain = TDBN(3), nn.BatchNorm2d(3)
        assert norm.state_dict().keys() == plain.state_dict().keys()
        assert all(torch.equal(v, plain.state_dict()[k]) for k, v in norm.state_dict().items())
        assert TDBN(3, affine=False, v_threshold=2.0).weight is None
        norm = TDBN(3, v_threshold=2.0)
        norm.weight.data.zero_()
        norm.reset_parameters()
        assert norm.weight.tolist() == [2.0] * 3

    def test_fuses_with_a_neuron(self):
        x, norm, neuron = torch.randn(4 * 2, 3, 5, 5) * 2, TDBN(3, v_threshold=1.5), LIF(T=4)
        assert neuron.can_fuse(norm)
        torch.testing.assert_close(neuron.after_norm(norm, x), neuron(norm(x)))

    def test_start_survives_the_initialisation(self):
        norm_cfg = dict(type='mmsnn.TDBN', v_threshold=0.5)
        model = SpikingResNet(18, base_channels=8, norm_cfg=norm_cfg)
        model.init_weights()
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        assert len(norms) == 20
        assert all(type(m) is TDBN and set(m.weight.tolist()) == {0.5} and not m.bias.any() for m in norms)

    def test_becomes_synchronised(self):
        norm = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(TDBN(3, v_threshold=0.5)))[0]
        assert type(norm) is nn.SyncBatchNorm and norm.weight.tolist() == [0.5] * 3


class TestTEBN:
    def test_formula(self):
        norm, x = TEBN(3, T=4).double(), torch.randn(4 * 2, 3, 5, 5, dtype=torch.float64) * 3 + 1
        norm.p.data = torch.tensor([0.5, 2.0, -1.0, 0.0], dtype=torch.float64)
        expected = nn.BatchNorm2d(3).double()(x)
        out = norm(x)
        for t in range(4):
            torch.testing.assert_close(unfold(out, 4)[t], norm.p[t] * unfold(expected, 4)[t])

    def test_starts_as_batch_norm_and_learns(self):
        norm, x = TEBN(3, T=4), torch.randn(4 * 2, 3, 5, 5)
        out = norm(x)
        torch.testing.assert_close(out, nn.BatchNorm2d(3)(x))
        (out * torch.randn_like(out)).sum().backward()
        assert norm.p.grad.all() and norm.mixes_time and not LIF(T=4).can_fuse(norm)

    def test_time_steps(self):
        """Fewer steps use the first factors; later ones there are none for."""
        norm, x = TEBN(3, T=4).eval(), torch.randn(2 * 2, 3, 5, 5)
        norm.p.data = torch.tensor([2.0, 3.0, 4.0, 5.0])
        set_time_steps(norm, 2)
        torch.testing.assert_close(norm(x), unfold(norm.bn(x), 2).mul(norm.p[:2].view(2, 1, 1, 1, 1)).flatten(0, 1))
        set_time_steps(norm, 6)
        with pytest.raises(ValueError, match='TEBN was built for T=4 .* T=6'):
            norm(torch.randn(12, 3, 5, 5))
        set_time_steps(norm, 4)
        with pytest.raises(ValueError, match='T=4 does not divide'):
            norm(torch.randn(6, 3, 5, 5))

    def test_only_its_batch_norm_becomes_synchronised(self):
        norm = nn.SyncBatchNorm.convert_sync_batchnorm(TEBN(3, T=4))
        assert type(norm) is TEBN and type(norm.bn) is nn.SyncBatchNorm

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_half_precision(self, dtype):
        with torch.autocast('cpu', dtype):
            assert TEBN(3, T=4)(torch.randn(8, 3, 5, 5).to(dtype)).dtype == dtype
