"""Threshold balancing wakes silent networks."""

import copy
import math

import mmpretrain.models  # noqa: F401  registers
import mmseg.models  # noqa: F401
import pytest
import torch
from torch import nn

from mmsnn.models import SEWResNet, Spikify, balance_thresholds
from mmsnn.neurons import ILIF, LIF, Neuron
from mmsnn.neurons.firing import SpikeCounter

SILENT = {
    'VGG': dict(type='mmpretrain.VGG', depth=11),
    'ERFNet': dict(type='mmseg.ERFNet'),
    'EfficientNet': dict(type='mmpretrain.EfficientNet', arch='b0'),
}


def rates(model, x):
    with torch.no_grad(), SpikeCounter(model) as counter:
        model(x)
    return counter.rates()


def plain(T=2, neuron=LIF):
    """Three layers that never fire."""
    layers = [nn.Conv2d(3, 8, 3), neuron(T), nn.Conv2d(8, 8, 3), neuron(T), nn.Conv2d(8, 8, 3), neuron(T)]
    model = nn.Sequential(*layers)
    for conv in model[::2]:
        nn.init.normal_(conv.weight, std=0.01)
    return model


class TestSpikify:
    @pytest.mark.parametrize('kind', SILENT)
    def test_wakes_all_layers(self, kind):
        torch.manual_seed(0)
        x = torch.randn(3, 3, 64, 64)
        asleep = Spikify(SILENT[kind], T=2)
        asleep.init_weights()
        found = rates(asleep.train(), x)
        assert len(found.silent) > len(found) / 2
        model = Spikify(SILENT[kind], T=2, balance=True)
        model.init_weights()
        found = rates(model.train(), x)
        assert not found.silent and min(found.values()) > 0.04
        # other images of the same kind
        assert not rates(model, torch.randn(3, 3, 64, 64)).silent

    def test_happens_once_and_stays_in_the_checkpoint(self):
        torch.manual_seed(0)
        cfg, x = SILENT['VGG'], torch.randn(3, 3, 32, 32)
        model = Spikify(cfg, T=2, balance=True)
        model.init_weights()
        model.eval()(x)
        assert not model.balanced, 'no batch of training yet'
        model.train()(x)
        gains = {k: v.clone() for k, v in model.state_dict().items() if k.endswith('.gain')}
        assert len(gains) == 8 and all(v > 1 for k, v in gains.items() if k != 'features.0.activate.gain')
        model(x * 1000)
        assert all(torch.equal(model.state_dict()[k], v) for k, v in gains.items())
        loaded = Spikify(cfg, T=2, balance=True)
        loaded.load_state_dict(model.state_dict())
        loaded.train()(x * 1000)
        assert all(torch.equal(loaded.state_dict()[k], v) for k, v in gains.items())
        twin = copy.deepcopy(model)
        assert torch.equal(twin.eval()(x)[0], model.eval()(x)[0])

    def test_weights_of_the_ann_load(self):
        model = Spikify(SILENT['VGG'], T=2, balance=True)
        ann = Spikify(SILENT['VGG'], T=2)
        missing = model.load_state_dict(ann.state_dict(), strict=False)
        assert not missing.unexpected_keys
        assert {k.rpartition('.')[2] for k in missing.missing_keys} == {'gain', 'balanced'}


class TestFunction:
    def test_gain_is_a_lower_threshold(self):
        """By hand: a constant current of 0.1 reaches 0.75 of itself in two steps of tau 2."""
        neuron = LIF(2)
        model = nn.Sequential(nn.Identity(), neuron)
        x = torch.full((6, 4), 0.1)
        gains = balance_thresholds(model, x, rate=0.5)
        # one spike, in the second of two steps, where 0.075 g >= 1
        assert gains['1'] == pytest.approx(1 / 0.075, rel=1e-2)
        lower = LIF(2, v_threshold=1 / gains['1'])
        steps = torch.rand(6, 50) * 0.2
        assert torch.equal(model(steps), lower(steps)) and 0 < model(steps).mean() < 1

    @pytest.mark.parametrize('neuron', [LIF, ILIF])
    def test_layers_one_after_the_other(self, neuron):
        torch.manual_seed(0)
        model, x = plain(neuron=neuron), torch.randn(6, 3, 16, 16)
        assert rates(model, x).silent
        gains = balance_thresholds(model, x, rate=0.2)
        assert list(gains) == ['1', '3', '5'] and all(g > 1 for g in gains.values())
        found = rates(model, x)
        levels = 1 if neuron is LIF else 4
        assert all(0.19 < rate / levels < 0.5 for rate in found.values()), dict(found)

    def test_what_fires_keeps_its_gain(self):
        model = nn.Sequential(nn.Identity(), LIF(2))
        assert balance_thresholds(model, torch.full((6, 4), 5.0)) == {'1': 1.0}

    def test_what_nothing_wakes(self):
        model = nn.Sequential(nn.Identity(), LIF(2))
        gains = balance_thresholds(model, -torch.ones(6, 4))
        assert math.isnan(gains['1']) and model[1].gain == 1

    def test_norms_keep_their_statistics(self):
        model = SEWResNet(18, T=2, base_channels=8).train()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        momenta = [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        gains = balance_thresholds(model, torch.randn(3, 3, 64, 64), rate=0.3)
        after = model.state_dict()
        assert all(torch.equal(after[k], v) for k, v in before.items())
        assert momenta == [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        assert any(gain > 1 for gain in gains.values())
        # norm and neuron are fused no more, else the gain would come in front of the norm
        assert not any(m.fuse_norm for m in model.modules() if isinstance(m, Neuron))

    def test_errors(self):
        with pytest.raises(ValueError, match='Conv2d has no spiking neuron'):
            balance_thresholds(nn.Conv2d(3, 3, 1), torch.randn(2, 3, 4, 4))
        with pytest.raises(ValueError, match='must lie between 0 and 1, got 2'):
            balance_thresholds(plain(), torch.randn(2, 3, 16, 16), rate=2)
