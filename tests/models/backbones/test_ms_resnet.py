"""MS-ResNet: as SpikingJelly's, as a loop over time, and with the sizes that its authors publish."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from plain_loop import PlainLoop
from torch import nn

from mmsnn.layers import SpikeConv2d, time_folded, unfold
from mmsnn.models import MSResNet

# the authors' neuron, in our words and in SpikingJelly's
AUTHORS = dict(type='LIF', tau=4 / 3, v_threshold=0.5, decay_input=False, detach_reset=True, surrogate='rectangle')
NEURONS = dict(default=dict(type='LIF'), authors=AUTHORS)


def small(depth=18, T=2, **kwargs):
    return MSResNet(depth, T=T, **{'base_channels': 8, **kwargs})


class TestSize:
    def test_parameters_without_the_deep_stem(self):
        """The published 77.28 M; the stem that the authors' code has at depth 104 adds 0.07."""
        model = MSResNet(104, deep_stem=False)
        assert round((sum(p.numel() for p in model.parameters()) + 512 * 1000 + 1000) / 1e6, 2) == 77.28

    def test_torchvision_names(self):
        theirs = torchvision.models.resnet18(weights=None).state_dict()
        result = MSResNet(18).load_state_dict(theirs, strict=False)
        assert {key.rsplit('.', 2)[0] for key in result.missing_keys} == {'layer1.0.downsample'}
        assert result.unexpected_keys == ['fc.weight', 'fc.bias']
        theirs.update({'conv1.weight': torch.zeros(64, 3, 3, 3)})
        assert MSResNet(18, stem='cifar').load_state_dict(theirs, strict=False).missing_keys == []

    def test_only_what_neurons_learn_is_missing(self):
        plain, learning = small(out_indices=(1, 3)), small(out_indices=(1, 3), neuron=dict(type='PLIF'))
        more = set(learning.state_dict()) - set(plain.state_dict())
        # two a block, and one a map
        assert len(more) == 2 * 8 + 2 and {'out_neuron2.w', 'out_neuron4.w'} < more


@pytest.fixture
def spiking_jelly():
    """``make(ours, layers, kind)``: SpikingJelly's network with our weights, and a run that gives stages and spikes."""
    functional = pytest.importorskip('spikingjelly.activation_based.functional')
    from spikingjelly.activation_based import neuron, surrogate
    from spikingjelly.activation_based.model import ms_resnet

    settings = dict(
        default=dict(surrogate_function=surrogate.ATan()),
        authors=dict(
            tau=4 / 3,
            v_threshold=0.5,
            decay_input=False,
            detach_reset=True,
            surrogate_function=surrogate.Rect(alpha=1.0),
        ),
    )

    def make(ours, layers, kind):
        model = ms_resnet.MSResNet(
            layers=layers, base_channels=8, num_classes=1, spiking_neuron=neuron.LIFNode, **settings[kind]
        )
        names = {'conv1': 'stem.0', 'bn1': 'stem.1'}
        state = {}
        for key, value in ours.state_dict().items():
            first, rest = key.split('.', 1)
            state[f'{names.get(first, first)}.{rest}'] = value.clone()
        result = model.load_state_dict(state, strict=False)
        assert result.unexpected_keys == [] and set(result.missing_keys) == {'head.weight', 'head.bias'}
        outs = []
        for name in ('layer1', 'layer2', 'layer3', 'layer4', 'head_lif'):
            getattr(model, name).register_forward_hook(lambda *args: outs.append(args[2]))

        def run(frames):
            outs.clear()
            model(frames)
            functional.reset_net(model)
            return list(outs)

        return model, run

    return make


class TestSpikingJelly:
    @pytest.mark.parametrize('kind', NEURONS)
    @pytest.mark.parametrize('depth, layers', [(18, (2, 2, 2, 2)), (34, (3, 4, 6, 3))])
    def test_equal_in_all_stages(self, depth, layers, kind, spiking_jelly, lively):
        ours = lively(small(depth, neuron=NEURONS[kind], readout='none'), torch.randn(3, 3, 64, 64), (-0.5, 0.7)).eval()
        theirs, run = spiking_jelly(ours, layers, kind)
        theirs.eval()
        sums = []
        for i in range(1, 5):
            getattr(ours, f'layer{i}').register_forward_hook(lambda *args: sums.append(args[2]))
        frames = torch.randn(3, 2, 3, 64, 64)
        with torch.no_grad():
            maps, expected = ours(frames), run(frames.transpose(0, 1))
        for i, (a, e) in enumerate(zip(sums, expected)):
            assert e.std() > 0.1, f'stage {i + 1}'
            torch.testing.assert_close(unfold(a, 2), e, msg=f'stage {i + 1}')
        assert 0.1 < expected[4].mean() < 0.9 and torch.equal(unfold(maps[3], 2), expected[4])

    @pytest.mark.parametrize('kind', NEURONS)
    def test_gradients_are_equal(self, kind, spiking_jelly, lively):
        ours = lively(small(neuron=NEURONS[kind], readout='none', out_indices=(3,)), bias=(-0.5, 0.7))
        theirs, run = spiking_jelly(ours, (2, 2, 2, 2), kind)
        frames = torch.randn(3, 2, 3, 64, 64)
        ours.train()(frames)[0].sum().backward()
        theirs.train()
        run(frames.transpose(0, 1))[4].sum().backward()
        expected = {k.replace('stem.0', 'conv1').replace('stem.1', 'bn1'): p for k, p in theirs.named_parameters()}
        for name, parameter in ours.named_parameters():
            assert parameter.grad.abs().sum() > 0, name
            torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-4, msg=name)


def step(blocks, strides, out_indices):
    """One time step of MS-ResNet: the network in a few lines of functions."""

    def run(net, x):
        if net.has('stem'):
            x = net.norm(net.conv(net.conv(net.conv(x, 'stem.0', 2), 'stem.1'), 'stem.2'), 'stem.3')
        else:
            large = net.state['conv1.weight'].shape[-1] == 7
            x = net.norm(net.conv(x, 'conv1', 2 if large else 1), 'bn1')
        outs = []
        for i, (count, stride) in enumerate(zip(blocks, strides)):
            for j in range(count):
                name, by = f'layer{i + 1}.{j}', stride if j == 0 else 1
                shortcut = x
                if net.has(f'{name}.downsample.2'):
                    shortcut = net.norm(net.conv(F.avg_pool2d(x, by), f'{name}.downsample.1'), f'{name}.downsample.2')
                elif net.has(f'{name}.downsample'):
                    shortcut = net.norm(net.conv(x, f'{name}.downsample.0', by), f'{name}.downsample.1')
                y = net.conv(net.spike(x, f'{name}.1'), f'{name}.conv1', by)
                y = net.conv(net.spike(net.norm(y, f'{name}.bn1'), f'{name}.2'), f'{name}.conv2')
                x = shortcut + net.norm(y, f'{name}.bn2')
            if i in out_indices:
                outs.append(net.spike(x, f'out{i}'))
        return outs

    return run


class TestPlainLoop:
    @pytest.mark.parametrize(
        'settings, blocks, strides',
        [
            (dict(depth=104), (3, 8, 32, 8), (2, 2, 2, 2)),
            (dict(depth=34, out_indices=(1, 2)), (3, 4, 6, 3), (2, 2, 2, 2)),
            (dict(depth=18, stem='cifar'), (2, 2, 2, 2), (1, 2, 2, 2)),
            (dict(depth=104, stem='cifar'), (3, 8, 32, 8), (1, 2, 2, 2)),
        ],
        ids=lambda value: str(value) if isinstance(value, dict) else '',
    )
    def test_equal(self, settings, blocks, strides, lively):
        frames = torch.randn(3, 4, 3, 32, 32)
        model = lively(small(T=4, **settings), bias=(-0.5, 0.6)).eval().double()
        with torch.no_grad():
            expected = PlainLoop(model).over(frames, step(blocks, strides, model.out_indices))
            got = model(frames.double())
        assert len(got) == len(expected) == len(model.out_channels)
        for g, e in zip(got, expected):
            assert e.std() > 0.1
            torch.testing.assert_close(g, e)


class TestMaps:
    def test_strides(self):
        for stem, first in (('imagenet', 4), ('cifar', 1)):
            outs = small(stem=stem).eval()(torch.randn(3, 3, 64, 64))
            assert [tuple(o.shape) for o in outs] == [(3, 8 * 2**i, *[64 // first // 2**i] * 2) for i in range(4)]

    def test_for_segmentation(self):
        """The strides and dilations of an inherited ResNet mean what they mean there."""
        settings = dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), contract_dilation=True, deep_stem=False)
        outs = small(**settings).eval()(torch.randn(3, 3, 64, 64))
        assert [o.shape[-1] for o in outs] == [16, 8, 8, 8]

    def test_chosen_stages(self):
        model = small(out_indices=(1, 3)).eval()
        assert [o.shape[1] for o in model(torch.randn(3, 3, 32, 32))] == [16, 64] == list(model.out_channels)
        assert [n for n, _ in model.named_children() if 'out_neuron' in n] == ['out_neuron2', 'out_neuron4']

    def test_are_spikes_and_the_sums_go_on(self, lively):
        """What a stage hands out are the spikes of the next stage's first neuron, and no sums."""
        model = lively(small(readout='none')).eval()
        spikes, sums = [], []
        for i in range(1, 5):
            layer = getattr(model, f'layer{i}')
            layer[0].neuron1.register_forward_hook(lambda *args: spikes.append(args[2]))
            layer[0].register_forward_pre_hook(lambda _, inputs: sums.append(inputs[0]))
        outs = model(torch.randn(3, 3, 64, 64))
        assert all(set(out.unique().tolist()) == {0.0, 1.0} for out in outs)
        assert all(torch.equal(a, b) for a, b in zip(outs, spikes[1:]))
        assert all(len(x.unique()) > 100 for x in sums)

    def test_event_frames_that_stand_still_equal_the_image(self, lively):
        for settings in (dict(), dict(deep_stem=True)):
            model = lively(small(**settings)).eval().double()
            x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
            for a, b in zip(model(x), model(torch.stack([x, x], 1))):
                torch.testing.assert_close(a, b)

    def test_stem_runs_once_for_an_image(self):
        model, seen = small(T=4).eval(), []
        model.conv1.register_forward_hook(lambda _m, _i, out: seen.append(out.shape[0]))
        model(torch.randn(3, 3, 32, 32))
        model(torch.randn(3, 4, 3, 32, 32))
        assert seen == [3, 12]

    @pytest.mark.parametrize('norm, rows', [(None, [3, 12]), (dict(type='mmsnn.TEBN', T=4), [12, 12])])
    def test_a_deep_stem_is_one_module_for_hooks(self, norm, rows):
        model, seen = small(T=4, deep_stem=True, **(dict(norm_cfg=norm) if norm else {})).eval(), []
        model.stem.register_forward_hook(lambda _m, _i, out: seen.append(out.shape[0]))
        model(torch.randn(3, 3, 32, 32))
        model(torch.randn(3, 4, 3, 32, 32))
        assert seen == rows

    def test_frames_of_two_channels(self):
        assert len(small(in_channels=2, stem='cifar').eval()(torch.randn(3, 2, 2, 32, 32))) == 4

    def test_a_norm_that_tells_steps_apart_sees_them(self):
        model = small(norm_cfg=dict(type='mmsnn.TEBN', T=2)).eval()
        with torch.no_grad():
            model.bn1.p.copy_(torch.tensor([0.0, 1.0]))
        seen = []
        model.layer1[0].neuron1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        model(torch.randn(3, 3, 32, 32))
        first, second = seen[0].chunk(2)
        assert first.shape[0] == 3 and not first.any() and second.any()


class TestBlocks:
    @pytest.mark.parametrize('zero', [True, False])
    def test_zero_init_residual(self, zero):
        """Every block starts as its shortcut."""
        model = small(stem='cifar', zero_init_residual=zero)
        assert small().zero_init_residual
        model.init_weights()
        x = torch.randn(6, 8, 9, 9)
        with time_folded(6):
            assert torch.equal(model.layer1(x), x) is zero

    def test_start_of_the_authors(self):
        """tdBN: weights start at the threshold, those at the end of a branch at 0."""
        model = small(norm_cfg=dict(type='mmsnn.TDBN', v_threshold=0.5))
        model.init_weights()
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                assert (module.weight == (0 if name.endswith('bn2') else 0.5)).all(), name

    def test_norm_and_neuron_as_one_op(self, check_fused, lively):
        """Where a neuron directly follows a norm: once a block."""

        def make(neuron):
            return lively(small(neuron=neuron), bias=(-0.5, 0.7))

        check_fused(make, torch.randn(3, 3, 64, 64), sites=8)

    def test_analog_inputs_are_not_packed(self):
        model = small(packed_spikes=True)
        packed = {n for n, m in model.named_modules() if isinstance(m, SpikeConv2d)}
        assert packed == {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and '.conv' in n}

    def test_other_norms(self):
        model = small(norm_cfg=dict(type='GN', num_groups=4)).eval()
        assert len(model(torch.randn(3, 3, 32, 32))) == 4

    @pytest.mark.parametrize('settings', [dict(), dict(deep_stem=True)])
    @pytest.mark.parametrize('frozen', [-1, 0, 1, 4])
    def test_frozen_stages(self, settings, frozen):
        model = small(frozen_stages=frozen, neuron=dict(type='PLIF'), out_indices=(0, 3), **settings)
        assert model.train() is model
        still = {'conv1', 'bn1', 'stem'} if frozen >= 0 else set()
        still |= {f'{part}{i}' for i in range(1, frozen + 1) for part in ('layer', 'out_neuron')}
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad is (name.split('.')[0] not in still), name

    @pytest.mark.parametrize(
        'settings, match',
        [
            (dict(depth=50), 'backbone.depth must be one of 18, 34, 104, .*, got 50'),
            (dict(joint_neuron=dict(detach_reset=True)), 'backbone.joint_neuron belongs to SpikingResNet'),
            (dict(stem='cifar', deep_stem=True), 'without deep_stem'),
            (dict(T=0), 'backbone.T must be at least 1'),
            (dict(out_indices=(4,)), 'backbone.out_indices must name stages 0 to 3'),
        ],
    )
    def test_errors(self, settings, match):
        with pytest.raises(ValueError, match=match):
            small(**settings)
