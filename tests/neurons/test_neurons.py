"""Every neuron by hand, as an activation of OpenMMLab's layers, and against SpikingJelly."""

import copy

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.registry import DefaultScope
from torch import nn

from mmsnn import get_time_steps, set_time_steps
from mmsnn.layers import Readout, TimeAware, fold
from mmsnn.models import SEWResNet, Spikformer
from mmsnn.neurons import IF, ILIF, LIF, PLIF, Neuron, build_neuron, expand_levels, to_binary
from mmsnn.ops import lif


def run(neuron, x):
    """Spikes of one neuron, as a list, and its last potential."""
    out, v = neuron(torch.tensor(x), return_v=True)
    return out.tolist(), v.item()


class TestTables:
    """Worked out with pencil: h is the potential before firing."""

    def test_if(self):
        # h = .5, 1.25 fires, -1, 1.5 fires, .25
        assert run(IF(T=5), [0.5, 0.75, -1.0, 2.5, 0.25]) == ([0, 1, 0, 1, 0], 0.25)

    def test_if_soft_reset(self):
        # h = .5, 1.25 fires and leaves .25, 1.5 fires and leaves .5
        assert run(IF(T=3, v_reset=None), [0.5, 0.75, 1.25]) == ([0, 1, 1], 0.5)

    def test_lif(self):
        # h = .75, .75 + .375 = 1.125 fires, .5, .5 + .75 = 1.25 fires, .375
        assert run(LIF(T=5), [1.5, 1.5, 1.0, 2.0, 0.75]) == ([0, 1, 0, 1, 0], 0.375)

    def test_lif_of_sakd(self):
        # v / 2 + x: .75, .375 + .75 = 1.125 fires, .75, .375 + .5 = .875
        neuron = LIF(T=4, decay_input=False, surrogate='triangle')
        assert run(neuron, [0.75, 0.75, 0.75, 0.5]) == ([0, 1, 0, 0], 0.875)

    def test_lif_of_tssd(self):
        # soft: 1.25 fires and leaves .25, .25 + (2.25 - .25) / 2 = 1.25 fires and leaves .25, .125
        neuron = LIF(T=3, v_reset=None, surrogate='rectangle')
        assert run(neuron, [2.5, 2.25, 0.0]) == ([1, 1, 0], 0.125)

    def test_lif_threshold_and_reset(self):
        # at rest at -.5: h = -.5 + .75 = .25, .25 + (1 - .75) / 2 = .375, .375 + (1.125 - .875) / 2 = .5 fires
        assert run(LIF(T=3, v_threshold=0.5, v_reset=-0.5), [1.5, 1.0, 1.125]) == ([0, 0, 1], -0.5)

    def test_plif(self):
        # tau 4: h = .5, .5 + (2.5 - .5) / 4 = 1 fires, .25
        spikes, v = run(PLIF(T=3, init_tau=4.0), [2.0, 2.5, 1.0])
        assert spikes == [0, 1, 0] and v == pytest.approx(0.25)

    def test_ilif(self):
        # a quarter stays: 2.5 rounds to the even 2, .5 left; .125 + 4 gives 4; .125; .03125 - 1; -.2421875 + 9 gives 4
        spikes, v = run(ILIF(T=5), [2.5, 4.0, 0.0, -1.0, 9.0])
        assert spikes == [2, 4, 0, 0, 4] and v == pytest.approx(0.25 * (0.25 * 0.03125 - 1) + 5, abs=1e-6)

    def test_ilif_of_one_level(self):
        # round(clip(h, 0, 1)), from above a half on: .5 rounds to the even 0, a quarter of it stays and .125 + .5 fires
        spikes, v = run(ILIF(T=3, levels=1), [0.5, 0.5, 3.0])
        assert spikes == [0, 1, 1] and v == pytest.approx(0.25 * (0.625 - 1) + 2, abs=1e-6)
        # the same threshold in other units; LIF fires from the threshold on
        assert run(ILIF(T=3, levels=1, v_threshold=2.0), [1.0, 1.0, 6.0])[0] == [0, 1, 1]
        assert run(LIF(T=3, tau=4 / 3, v_reset=None, decay_input=False), [0.5, 0.5, 3.0])[0] == [0, 0, 1]


class TestModule:
    def test_call_is_the_op(self, neuron_type):
        neuron = neuron_type(T=3, v_threshold=0.8, detach_reset=True)
        x = torch.randn(6, 4, 5, 5)
        assert neuron.settings.v_threshold == 0.8 and neuron.settings.detach_reset
        assert torch.equal(neuron(x), lif(x, 3, neuron.settings, **neuron.learned()))

    def test_streams(self, neuron_type):
        neuron, half = neuron_type(T=4), neuron_type(T=2)
        x = torch.randn(4, 3, 5)
        whole, v = neuron(fold(x), return_v=True)
        first, between = half(fold(x[:2]), return_v=True)
        second, last = half(fold(x[2:]), v_init=between, return_v=True)
        assert torch.equal(torch.cat([first, second]), whole) and torch.equal(last, v)

    def test_input_stays_and_inplace_is_ignored(self, neuron_type):
        x = torch.randn(4, 3)
        before = x.clone()
        out = neuron_type(T=2, inplace=True)(x)
        assert torch.equal(x, before) and torch.equal(out, neuron_type(T=2)(x))

    def test_learns(self, neuron_type):
        x = torch.randn(4, 50, requires_grad=True)
        neuron_type(T=2)(x).sum().backward()
        assert (x.grad != 0).float().mean() > 0.2

    def test_shows_its_settings(self, neuron_type):
        assert f'{neuron_type.__name__}(T=7, ' in repr(neuron_type(T=7))

    @pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmseg', 'mmpretrain', 'mmsnn'])
    def test_activation_of_conv_module(self, neuron_type, scope):
        with DefaultScope.overwrite_default_scope(scope):
            layer = ConvModule(
                3,
                4,
                3,
                norm_cfg=dict(type='BN'),
                act_cfg=dict(type=f'mmsnn.{neuron_type.__name__}', T=2, v_threshold=0.5),
            )
        assert type(layer.activate) is neuron_type and layer.activate.T == 2
        x = torch.randn(6, 3, 8, 8)
        expected = neuron_type(T=2, v_threshold=0.5)(layer.bn(layer.conv(x)))
        out = layer.eval()(x)
        assert torch.equal(out, neuron_type(T=2, v_threshold=0.5)(layer.bn(layer.conv(x))))
        assert out.shape == expected.shape and out.unique().numel() > 1

    def test_short_configs(self):
        """A type alone, and keys that change a backbone's default."""
        small = dict(num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,), base_channels=8)
        assert type(SEWResNet(18, neuron='PLIF', **small).neuron1) is PLIF
        neuron = SEWResNet(18, neuron=dict(fuse_norm=False, tau=1.7), **small).neuron1
        assert type(neuron) is LIF and not neuron.fuse_norm and neuron.tau == 1.7
        block = Spikformer('2-384', neuron=dict(tau=1.7)).block[0]
        assert block.attn.q_lif.settings.surrogate == 'sigmoid' and block.attn.attn_lif.tau == 1.7

    def test_built_from_a_backbone_config(self, neuron_type):
        cfg = dict(type=neuron_type.__name__, v_threshold=0.5)
        with DefaultScope.overwrite_default_scope('mmdet'):
            neuron = build_neuron(cfg, T=6)
        assert type(neuron) is neuron_type and neuron.T == 6 and neuron.settings.v_threshold == 0.5
        assert cfg == dict(type=neuron_type.__name__, v_threshold=0.5)


class TestTimeSteps:
    def test_sets_every_module(self):
        model = nn.Sequential(LIF(T=2), nn.Conv2d(1, 1, 1), nn.Sequential(IF(T=2), Readout(2)))
        assert get_time_steps(model) == 2
        assert set_time_steps(model, 5) is model
        assert [m.T for m in model.modules() if isinstance(m, TimeAware)] == [5, 5, 5]
        assert get_time_steps(model) == 5 and get_time_steps(nn.ReLU()) == 1

    def test_errors(self):
        with pytest.raises(ValueError, match='Conv2d has no spiking module'):
            set_time_steps(nn.Conv2d(1, 1, 1), 2)
        for T, error in ((0, ValueError), (2.0, TypeError), (True, TypeError), ('2', TypeError)):
            with pytest.raises(error, match='T must be'):
                set_time_steps(LIF(T=2), T)
            with pytest.raises(error, match='T must be'):
                LIF(T=T)
        with pytest.raises(ValueError, match=r'Sequential have different T: \[2, 3\]'):
            get_time_steps(nn.Sequential(LIF(T=2), LIF(T=3)))


class TestPLIF:
    def test_time_constant(self):
        assert PLIF(T=2).tau.item() == pytest.approx(2.0)
        assert PLIF(T=2, init_tau=1.7).tau.item() == pytest.approx(1.7)
        # the key of LIF, so that a config can swap the type alone
        assert PLIF(T=2, tau=1.7).tau.item() == pytest.approx(1.7)
        assert list(PLIF(T=2).state_dict()) == ['w']

    def test_shows_what_it_has_learned(self):
        neuron = PLIF(T=2, init_tau=1.7)
        assert 'tau=1.7 (learned)' in repr(neuron)
        nn.init.constant_(neuron.w, -1.0)
        assert 'tau=3.718 (learned)' in repr(neuron)
        assert 'tau=? (learned)' in repr(neuron.to('meta'))

    @pytest.mark.parametrize(
        'settings', [dict(), dict(init_tau=1.7, decay_input=False, v_reset=None, detach_reset=True)]
    )
    def test_trains_as_in_spikingjelly(self, settings):
        jelly = pytest.importorskip('spikingjelly.activation_based.neuron')
        surrogate = pytest.importorskip('spikingjelly.activation_based.surrogate')
        ours = PLIF(T=4, **settings)
        theirs = jelly.ParametricLIFNode(**settings, step_mode='m', surrogate_function=surrogate.ATan())
        for parameter in (ours.w, theirs.w):
            optimizer = torch.optim.SGD([parameter], lr=0.05)
            torch.manual_seed(0)
            for _ in range(3):
                x, cotangent = torch.randn(4, 3, 10), torch.randn(4, 3, 10)
                if parameter is ours.w:
                    out = ours(x)
                else:
                    theirs.reset()
                    out = theirs(x)
                optimizer.zero_grad()
                (out * cotangent).sum().backward()
                optimizer.step()
        assert abs(ours.tau.item() - settings.get('init_tau', 2.0)) > 1e-3
        torch.testing.assert_close(ours.w, theirs.w, rtol=0, atol=1e-6)


class TestILIF:
    @pytest.mark.parametrize('levels', [1, 2, 4])
    @pytest.mark.parametrize('v_threshold', [1.0, 0.7])
    def test_fires_as_in_spikingjelly(self, levels, v_threshold):
        neuron = pytest.importorskip('spikingjelly.activation_based.neuron')
        surrogate = pytest.importorskip('spikingjelly.activation_based.surrogate')
        theirs = neuron.ILIFNode(
            v_threshold=v_threshold,
            surrogate_function=surrogate.MultiLevelSpikeCount(levels),
            step_mode='m',
            detach_reset=True,
        )
        x = (2 * levels * torch.rand(4, 50)).requires_grad_()
        outs, grads = [], []
        for each in (theirs, ILIF(T=4, levels=levels, v_threshold=v_threshold)):
            outs.append(each(x))
            grads.append(torch.autograd.grad(outs[-1].square().sum(), x)[0])
        assert torch.equal(*outs) and outs[0].max() == levels
        torch.testing.assert_close(*grads)

    def test_binary_form(self):
        counts = torch.randint(0, 4, (2, 3, 5)).float()
        spikes = to_binary(counts, 3)
        assert spikes.shape == (2, 3, 3, 5)
        assert set(spikes.unique().tolist()) == {0.0, 1.0}
        assert torch.equal(spikes.sum(1), counts)
        assert to_binary(torch.tensor([2.0]), 3).tolist() == [[1.0, 1.0, 0.0]]

    @pytest.mark.parametrize('D', [2, 3, 4])
    def test_expanded_layers_equal_the_integer_ones(self, D):
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            ILIF(T=2, levels=D),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            ILIF(T=2, levels=D),
        )
        model(torch.randn(6, 3, 12, 12) * 4)
        model.eval()
        x = torch.randn(2, 3, 3, 12, 12) * 4
        integers = model(fold(x))
        expanded = expand_levels(copy.deepcopy(model))
        assert get_time_steps(expanded) == 2 * D
        micro = x.unsqueeze(1).expand(2, D, 3, 3, 12, 12)
        spikes = expanded(fold(fold(micro)))
        assert set(spikes.unique().tolist()) == {0.0, D}
        assert integers.max() > 1
        mean = spikes.unflatten(0, (2, D, 3)).mean(1)
        assert (fold(mean) - integers).abs().gt(1e-6).float().mean() < 1e-3

    def test_expanded_network_equals_the_integer_one(self, lively):
        model = SEWResNet(18, T=2, neuron=dict(type='ILIF', levels=3), base_channels=8)
        # double precision, so that no rounding turns an integer into its neighbour
        lively(model).eval().double()
        x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
        with torch.no_grad():
            expected = model(x)
            assert expand_levels(model) is model
            got = model(x)
        assert model.T == 6
        # neither silent nor saturated
        assert all(e.max() > 1 and e.unique().numel() > 10 for e in expected)
        for g, e in zip(got, expected):
            torch.testing.assert_close(g, e)

    def test_expanded_with_potentials(self):
        neuron = ILIF(T=2, levels=2)
        x, v = torch.randn(2, 3, 5) * 3, torch.randn(3, 5)
        expected, last = neuron(fold(x), v_init=v, return_v=True)
        got, end = expand_levels(neuron)(fold(fold(torch.stack([x, x], 1))), v_init=v, return_v=True)
        assert torch.equal(got.unflatten(0, (2, 2, 3)).mean(1).flatten(0, 1), expected) and torch.equal(end, last)

    @pytest.mark.parametrize(
        'model, match',
        [
            (lambda: nn.ReLU(), 'all ILIF'),
            (lambda: nn.Sequential(ILIF(T=2), LIF(T=2)), 'all ILIF'),
            (lambda: nn.Sequential(ILIF(T=2, levels=2), ILIF(T=2, levels=4)), 'equal levels'),
            (lambda: expand_levels(ILIF(T=2)), 'expanded already'),
            (lambda: SEWResNet(18, T=2, neuron=dict(type='ILIF'), base_channels=8, connect='AND'), "connect='AND'"),
            (lambda: SEWResNet(18, T=2, neuron=dict(type='ILIF'), base_channels=8, connect='IAND'), "connect='IAND'"),
        ],
        ids=['none', 'mixed', 'levels', 'twice', 'AND', 'IAND'],
    )
    def test_errors(self, model, match):
        built = model()
        with pytest.raises(ValueError, match=match):
            expand_levels(built)

    def test_time_steps_after_expansion(self):
        neuron = set_time_steps(expand_levels(ILIF(T=1, levels=4)), 6)
        with pytest.raises(ValueError, match='T=6 micro-steps are not a multiple of levels=4'):
            neuron(torch.zeros(6, 3))


class TestErrors:
    @pytest.mark.parametrize(
        'make, error, match',
        [
            (lambda: IF(tau=2.0), TypeError, "remove 'tau'"),
            (lambda: IF(decay_input=False), TypeError, "remove 'tau' and 'decay_input'"),
            (lambda: LIF(tau=None), ValueError, "type='IF'"),
            (lambda: LIF(tau=0.5), ValueError, 'tau must be at least 1.*0.5'),
            (lambda: LIF(v_threshold=-1.0), ValueError, 'v_threshold.*above 0'),
            (lambda: LIF(v_reset=2.0), ValueError, 'v_reset must lie below'),
            (lambda: LIF(surrogate='Atan'), ValueError, "surrogate must be one of .*did you mean 'atan'"),
            (lambda: LIF(alpha=-1.0), ValueError, 'alpha.*above 0'),
            (lambda: LIF(levels=4), ValueError, 'levels=4 needs the soft reset'),
            (lambda: LIF(taau=2.0), TypeError, 'taau'),
            (lambda: PLIF(init_tau=1.0), ValueError, 'init_tau must be above 1'),
            (lambda: PLIF(tau=1), ValueError, 'init_tau must be above 1'),
            (lambda: PLIF(tau=None), ValueError, 'init_tau must be above 1'),
            (lambda: PLIF(init_tau='2'), TypeError, 'tau must be a number'),
            (lambda: ILIF(v_reset=0.0), ValueError, 'levels=4 needs the soft reset'),
            (lambda: ILIF(levels=1, v_reset=0.0), ValueError, 'levels=1 needs the soft reset'),
            (lambda: ILIF(levels=0), ValueError, 'levels must be at least 1'),
            (lambda: LIF(T=3)(torch.zeros(4, 2)), ValueError, r'T=3.*\(4, 2\)'),
            (lambda: build_neuron(dict(tau=2.0), 4), TypeError, "'type'"),
            (lambda: build_neuron('LIF', 4), TypeError, "'type'"),
            (lambda: SEWResNet(18, neuron=['LIF']), TypeError, r"neuron: expected .*, got \['LIF'\]"),
            (lambda: build_neuron(dict(type='LIFF'), 4), KeyError, "'LIFF' is not registered.*LIF"),
            (lambda: build_neuron(dict(type='IF', tau=2.0), 4), TypeError, "remove 'tau'"),
            (
                lambda: build_neuron(dict(type='LIF', taau=2.0), 4),
                TypeError,
                'neuron.taau: LIF has no such key; it takes .*tau',
            ),
            (lambda: build_neuron(dict(type='ConvBN'), 4), TypeError, "'ConvBN' is not a spiking neuron; .*PLIF"),
        ],
    )
    def test_named(self, make, error, match):
        with pytest.raises(error, match=match):
            make()

    def test_all_are_neurons(self, neuron_type):
        assert issubclass(neuron_type, Neuron) and neuron_type.__doc__
