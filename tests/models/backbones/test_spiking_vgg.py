"""Spiking VGG: as SpikingJelly's, with torchvision's names, and as a loop over time."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from plain_loop import PlainLoop
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmsnn.layers import SpikeConv2d, unfold
from mmsnn.models import SpikingVGG
from mmsnn.neurons import Neuron


def small(depth=9, T=2, **kwargs):
    return SpikingVGG(depth, T=T, **{'base_channels': 8, **kwargs})


@pytest.fixture
def alive(lively):
    """As `lively`; without norms, weights under which a part of the neurons spikes."""

    def make(model):
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                nn.init.normal_(module.weight, std=(8 / fan_in) ** 0.5)
                nn.init.uniform_(module.bias, 0, 2.5)
        image = torch.randn(3, next(model.parameters()).shape[1], 32, 32)
        return lively(model, image)

    return make


class TestNames:
    @pytest.mark.parametrize(
        'name, depth, settings, parameters',
        # torchvision's documentation, the linear layers included
        [
            ('vgg11', 11, dict(with_norm=False), 132863336),
            ('vgg11_bn', 11, dict(), 132868840),
            ('vgg13_bn', 13, dict(), 133053736),
            ('vgg16', 16, dict(with_norm=False), 138357544),
            ('vgg16_bn', 16, dict(norm_cfg=dict(type='BN')), 138365992),
            ('vgg19_bn', 19, dict(), 143678248),
        ],
    )
    def test_torchvision(self, name, depth, settings, parameters):
        with torch.device('meta'):
            theirs = getattr(torchvision.models, name)(weights=None, init_weights=False)
        model = SpikingVGG(depth, **settings)
        linear = sum(p.numel() for p in theirs.classifier.parameters())
        assert sum(p.numel() for p in model.parameters()) + linear == parameters
        expected = {k: v.shape for k, v in theirs.state_dict().items() if not k.startswith('classifier.')}
        assert {k: v.shape for k, v in model.state_dict().items()} == expected

    def test_checkpoint_of_an_ann_loads(self):
        model = SpikingVGG(11)
        state = {k: torch.rand_like(v) if v.is_floating_point() else v for k, v in model.state_dict().items()}
        theirs = torchvision.models.vgg11_bn(weights=None, init_weights=False)
        theirs.load_state_dict(state, strict=False)
        result = model.load_state_dict(theirs.state_dict(), strict=False)
        assert result.missing_keys == [] and all(k.startswith('classifier.') for k in result.unexpected_keys)
        assert torch.equal(model.features[4].weight, state['features.4.weight'])

    def test_vggsnn(self):
        """TET's VGGSNN: 64-128-P-256-256-P-512-512-P-512-512-P on two channels."""
        model = SpikingVGG(9, in_channels=2, pool='avg')
        kinds = (nn.Conv2d, nn.AvgPool2d)
        found = [getattr(m, 'out_channels', 'P') for m in model.features if isinstance(m, kinds)]
        assert found == [64, 128, 'P', 256, 256, 'P', 512, 512, 'P', 512, 512, 'P']
        assert model.features[0].in_channels == 2


@pytest.fixture
def spiking_jelly():
    """``make(name, ours)``: SpikingJelly's layers with our weights; ``run(frames)``: what its poolings give."""
    functional = pytest.importorskip('spikingjelly.activation_based.functional')
    from spikingjelly.activation_based import neuron, surrogate
    from spikingjelly.activation_based.model import spiking_vgg

    def make(name, ours):
        with torch.device('meta'):
            model = getattr(spiking_vgg, name)(spiking_neuron=neuron.LIFNode, surrogate_function=surrogate.ATan())
        features = model.features
        features.load_state_dict({k: v.clone() for k, v in ours.features.state_dict().items()}, assign=True)
        functional.set_step_mode(features, 'm')
        outs = []
        for module in features:
            if isinstance(module, nn.MaxPool2d):
                module.register_forward_hook(lambda *args: outs.append(args[2]))

        def run(frames):
            outs.clear()
            features(frames)
            functional.reset_net(features)
            return list(outs)

        return features, run

    return make


class TestSpikingJelly:
    @pytest.mark.parametrize(
        'name, depth, settings',
        [
            ('spiking_vgg11', 11, dict(with_norm=False)),
            ('spiking_vgg11_bn', 11, dict()),
            ('spiking_vgg16', 16, dict(with_norm=False)),
            ('spiking_vgg16_bn', 16, dict()),
        ],
    )
    def test_equal_in_all_stages(self, name, depth, settings, spiking_jelly, alive):
        model = alive(SpikingVGG(depth, T=2, readout='none', **settings)).eval()
        theirs, run = spiking_jelly(name, model)
        theirs.eval()
        frames = torch.randn(3, 2, 3, 32, 32)
        with torch.no_grad():
            got, expected = model(frames), run(frames.transpose(0, 1))
        assert len(got) == len(expected) == 5
        for stage, (g, e) in enumerate(zip(got, expected)):
            assert e.std() > 0.1, f'stage {stage + 1} is silent'
            assert torch.equal(unfold(g, 2), e), f'stage {stage + 1}'

    @pytest.mark.parametrize('name, settings', [('spiking_vgg11', dict(with_norm=False)), ('spiking_vgg11_bn', dict())])
    def test_gradients_are_equal(self, name, settings, spiking_jelly, alive):
        model = alive(SpikingVGG(11, T=2, readout='none', **settings)).train()
        theirs, run = spiking_jelly(name, model)
        frames = torch.randn(3, 2, 3, 32, 32)
        for outs in (model(frames), run(frames.transpose(0, 1))):
            sum(out.mean() for out in outs).backward()
        expected = dict(theirs.named_parameters())
        for key, parameter in model.features.named_parameters():
            assert parameter.grad.abs().sum() > 0
            # a bias in front of a batch norm has no effect: what is left is rounding
            atol = 1e-5 if 'bn' in name and key.endswith('bias') else 1e-6
            torch.testing.assert_close(parameter.grad, expected[key].grad, rtol=1e-3, atol=atol, msg=key)


def step(pool):
    """One time step of VGG-9."""
    shrink = F.avg_pool2d if pool == 'avg' else F.max_pool2d

    def run(net, x):
        outs, at = [], 0
        per_layer = 3 if net.has('features.1') else 2
        for _ in range(4):
            for _ in range(2):
                x = net.conv(x, f'features.{at}')
                if per_layer == 3:
                    x = net.norm(x, f'features.{at + 1}')
                x = net.spike(x, at)
                at += per_layer
            x, at = shrink(x, 2), at + 1
            outs.append(x)
        return outs

    return run


@pytest.mark.parametrize('with_norm', [True, False])
@pytest.mark.parametrize('pool', ['max', 'avg'])
def test_equals_a_loop_over_time(pool, with_norm, alive):
    """Event frames of two channels."""
    frames = torch.randn(3, 4, 2, 48, 48)
    model = alive(small(T=4, in_channels=2, pool=pool, with_norm=with_norm)).eval().double()
    with torch.no_grad():
        expected, got = PlainLoop(model).over(frames, step(pool)), model(frames.double())
    assert len(got) == len(expected) == 4
    for g, e in zip(got, expected):
        assert e.std() > 0.05
        torch.testing.assert_close(g, e)


class TestMaps:
    @pytest.mark.parametrize(
        'depth, widths', [(9, (16, 32, 64, 64)), (11, (8, 16, 32, 64, 64)), (16, (8, 16, 32, 64, 64))]
    )
    def test_shapes(self, depth, widths):
        model = small(depth).eval()
        for x in (torch.randn(3, 3, 32, 32), torch.randn(3, 2, 3, 32, 32)):
            expected = [(3, width, 16 // 2**i, 16 // 2**i) for i, width in enumerate(widths)]
            assert [tuple(o.shape) for o in model(x)] == expected
        assert model.out_channels == widths

    def test_chosen_stages(self):
        model = small(16, out_indices=[1, 4]).eval()
        assert [o.shape[1] for o in model(torch.randn(3, 3, 32, 32))] == [16, 64] == list(model.out_channels)

    @pytest.mark.parametrize('pool, values', [('max', {0, 1}), ('avg', {0, 0.25, 0.5, 0.75, 1})])
    def test_what_the_pooling_gives(self, pool, values, alive):
        model = alive(small(pool=pool, readout='none')).eval()
        for out in model(torch.randn(3, 3, 32, 32)):
            assert out.shape[0] == 6 and set(out.unique().tolist()) == values

    @pytest.mark.parametrize('settings', [dict(), dict(with_norm=False)])
    def test_event_frames_that_stand_still_equal_the_image(self, settings, alive):
        model = alive(small(**settings)).eval().double()
        x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
        for a, b in zip(model(x), model(torch.stack([x, x], 1))):
            assert a.std() > 0.1
            torch.testing.assert_close(a, b)

    def test_first_layer_runs_once_for_an_image(self):
        model, seen = small(T=4).eval(), []
        model.features[1].register_forward_hook(lambda _m, _i, out: seen.append(out.shape[0]))
        model(torch.randn(3, 3, 32, 32))
        model(torch.randn(3, 4, 3, 32, 32))
        assert seen == [3, 12]

    def test_a_norm_that_tells_steps_apart_sees_them(self):
        model = small(norm_cfg=dict(type='mmsnn.TEBN', T=2)).eval()
        with torch.no_grad():
            model.features[1].p.copy_(torch.tensor([0.0, 1.0]))
        seen = []
        model.features[2].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        model(torch.randn(3, 3, 32, 32))
        first, second = seen[0].chunk(2)
        assert first.shape[0] == 3 and not first.any() and second.any()

    def test_poisson(self):
        model, seen = small(encoder=dict(type='PoissonEncoder')).eval(), []
        model.features[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        model(torch.rand(3, 3, 32, 32))
        assert seen[0].shape[0] == 6 and set(seen[0].unique().tolist()) == {0.0, 1.0}


class TestModule:
    def test_neurons(self):
        for settings, every in ((dict(), 3), (dict(with_norm=False), 2)):
            model = small(16, T=5, neuron=dict(type='LIF', tau=1.7), **settings)
            convs = [i for i, m in enumerate(model.features) if isinstance(m, nn.Conv2d)]
            neurons = [i for i, m in enumerate(model.features) if isinstance(m, Neuron)]
            assert len(convs) == 13 and neurons == [i + every - 1 for i in convs]
            assert all(model.features[i].T == 5 and model.features[i].tau == 1.7 for i in neurons)

    @pytest.mark.parametrize('frames, sites', [(False, 7), (True, 8)])
    def test_norm_and_neuron_as_one_op(self, frames, sites, check_fused, lively):
        """Everywhere, but for an image's first layer, where the steps come between them."""
        x = torch.randn(3, 3, 32, 32)
        x = torch.stack([x, x.flip(0)], 1) if frames else x
        check_fused(lambda neuron: lively(small(neuron=neuron)), x, sites)

    @pytest.mark.parametrize('pool, missing', [('max', {0}), ('avg', {0, 7, 14, 21})])
    def test_packed_are_the_convolutions_of_spikes(self, pool, missing):
        model = small(pool=pool, packed_spikes=True)
        convs = {i for i, m in enumerate(model.features) if isinstance(m, nn.Conv2d)}
        assert convs - {i for i, m in enumerate(model.features) if isinstance(m, SpikeConv2d)} == missing
        sum(out.sum() for out in model(torch.randn(3, 3, 32, 32))).backward()

    def test_sums_of_levels_are_packed_as_bytes(self):
        model = small(packed_spikes=True, neuron=dict(type='ILIF', levels=4))
        assert {m.bits for m in model.modules() if isinstance(m, SpikeConv2d)} == {8}

    def test_freezing_random_stages_is_reported(self, monkeypatch):
        said = []
        monkeypatch.setattr('mmsnn.models.backbones.arguments.print_log', lambda text, **_: said.append(text))
        small(frozen_stages=0)
        small(frozen_stages=1, init_cfg=dict(type='Pretrained', checkpoint='a.pth'))
        assert not said
        small(frozen_stages=1)
        assert 'frozen_stages=1 freezes randomly initialised stages' in said[0]

    @pytest.mark.parametrize('frozen', [-1, 0, 1, 3, 4])
    def test_frozen_stages(self, frozen):
        model = small(frozen_stages=frozen, neuron=dict(type='PLIF'))
        assert model.train() is model
        end = 7 * max(frozen, 0)
        for i, module in enumerate(model.features):
            assert all(p.requires_grad is (i >= end) for p in module.parameters()), i
            if isinstance(module, _BatchNorm):
                assert module.training is (i >= end)

    def test_norm_eval(self):
        norms = [m for m in small(norm_eval=True).train().modules() if isinstance(m, _BatchNorm)]
        assert len(norms) == 8 and not any(m.training for m in norms)
        assert all(m.training for m in small().train().modules())

    @pytest.mark.parametrize(
        'settings, match',
        [
            (dict(depth=12), 'backbone.depth must be one of 9, 11, 13, 16, 19, got 12'),
            (dict(pool='sum'), "backbone.pool must be one of max, avg, got 'sum'"),
            (dict(T=0), 'backbone.T must be at least 1'),
            (dict(out_indices=(4,)), r'backbone.out_indices must name stages 0 to 3, got \(4,\)'),
            (dict(out_indices=()), 'backbone.out_indices'),
            (dict(frozen_stages=5), 'backbone.frozen_stages must lie in -1 to 4, got 5'),
            (dict(readout='last'), "readout must be one of mean, none, got 'last'"),
        ],
    )
    def test_errors(self, settings, match):
        with pytest.raises(ValueError, match=match):
            small(**settings)
