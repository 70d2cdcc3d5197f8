"""SEW-ResNet: as SpikingJelly's with ADD and AND at every depth, and with IAND where the two agree on its meaning."""

import pytest
import torch

from mmsnn.layers import time_folded, unfold
from mmsnn.models import SEWResNet
from mmsnn.models.backbones.sew_resnet import SEWBlock

# biases under which products of many spikes are still alive
BIAS = dict(ADD=(0.5, 2.0), AND=(2.0, 5.0), IAND=(0.5, 2.0))


def small(depth=18, T=2, **kwargs):
    return SEWResNet(depth, T=T, **{'base_channels': 8, **kwargs})


class TestSpikingJelly:
    @pytest.mark.parametrize(
        'connect, depth',
        # IAND lets fewer spikes through with every block: none would be left at the deeper ones
        [(c, d) for d in (18, 34, 50, 101, 152) for c in BIAS if c != 'IAND' or d <= 50],
    )
    def test_equal_in_all_stages(self, depth, connect, spiking_jelly, lively, monkeypatch):
        """From depth 50 on SpikingJelly's IAND is ``branch * (1 - shortcut)``: there its operands are swapped."""
        model = SEWResNet(depth, T=2, connect=connect, readout='none')
        lively(model, torch.randn(3, 3, 64, 64), BIAS[connect]).eval()
        theirs = spiking_jelly('sew_resnet', depth, model, cnf=connect)
        frames = torch.randn(3, 2, 3, 64, 64)
        if connect == 'IAND' and depth >= 50:
            from spikingjelly.activation_based.model import sew_resnet

            before = theirs(frames.transpose(0, 1))
            monkeypatch.setattr(sew_resnet, 'sew_function', lambda branch, shortcut, cnf: shortcut * (1.0 - branch))
            assert not torch.equal(theirs(frames.transpose(0, 1))[0], before[0])
        with torch.no_grad():
            expected, got = theirs(frames.transpose(0, 1)), model(frames)
        assert len(got) == 4
        for stage, (g, e) in enumerate(zip(got, expected)):
            assert e.std() > 0.05, f'stage {stage + 1} is silent'
            assert torch.equal(unfold(g, 2), e), f'stage {stage + 1}'

    @pytest.mark.parametrize('connect', ['ADD', 'AND', 'IAND'])
    def test_gradients_are_equal(self, connect, spiking_jelly, lively):
        model = lively(SEWResNet(18, T=2, connect=connect, readout='none'), bias=BIAS[connect])
        theirs = spiking_jelly('sew_resnet', 18, model, cnf=connect)
        frames = torch.randn(3, 2, 3, 32, 32)
        for outs in (model.train()(frames), theirs.train()(frames.transpose(0, 1))):
            sum(out.mean() for out in outs).backward()
        expected = dict(theirs.model.named_parameters())
        for name, parameter in model.named_parameters():
            assert parameter.grad.abs().sum() > 0
            torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-6)

    def test_image_is_presented_in_every_step(self, spiking_jelly, lively):
        """In double precision: the stem runs once here and T times there, which may round differently."""
        model = lively(SEWResNet(18, T=4)).eval().double()
        theirs = spiking_jelly('sew_resnet', 18, model, cnf='ADD')
        x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
        with torch.no_grad():
            expected, got = theirs(x.expand(4, *x.shape)), model(x)
        for g, e in zip(got, expected):
            torch.testing.assert_close(g, e.mean(0))


class TestConnect:
    MEANING = dict(
        ADD=lambda shortcut, branch: shortcut + branch,
        AND=lambda shortcut, branch: shortcut * branch,
        IAND=lambda shortcut, branch: shortcut * (1 - branch),
    )

    @pytest.mark.parametrize('connect', MEANING)
    @pytest.mark.parametrize('depth', [18, 50])
    def test_of_every_block(self, connect, depth, lively):
        model = lively(small(depth, connect=connect, readout='none'), bias=BIAS[connect]).eval()
        seen = {}

        def keep(name):
            def hook(_, inputs, out):
                seen[name] = inputs[0], out

            return hook

        blocks = {n: m for n, m in model.named_modules() if isinstance(m, SEWBlock)}
        for name, block in blocks.items():
            block.register_forward_hook(keep(name))
            block.last_neuron.register_forward_hook(keep(name + '.branch'))
            if block.downsample is not None:
                block.downsample_neuron.register_forward_hook(keep(name + '.shortcut'))
        model(torch.randn(3, 3, 64, 64))
        for name in blocks:
            x, out = seen[name]
            shortcut = seen.get(name + '.shortcut', (None, x))[1]
            assert torch.equal(out, self.MEANING[connect](shortcut=shortcut, branch=seen[name + '.branch'][1])), name
        assert sum(seen[name][1].std() > 0 for name in blocks) > len(blocks) / 2

    def test_add_counts(self, lively):
        """Integers between 0 and the stage's number of blocks plus one."""
        for out in lively(small(readout='none')).eval()(torch.randn(3, 3, 64, 64)):
            assert set(out.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0} and out.max() > 1

    @pytest.mark.parametrize('connect', ['AND', 'IAND'])
    def test_products_stay_spikes(self, connect, lively):
        for out in lively(small(connect=connect, readout='none'), bias=BIAS[connect]).eval()(torch.randn(3, 3, 64, 64)):
            assert set(out.unique().tolist()) <= {0.0, 1.0}


class TestModule:
    def test_neurons_of_a_block(self):
        block = small(50).layer2[0]
        assert {n for n, _ in block.named_children() if 'neuron' in n} == {
            'neuron1',
            'neuron2',
            'neuron3',
            'downsample_neuron',
        }
        assert not hasattr(small(50).layer2[1], 'downsample_neuron')

    @pytest.mark.parametrize(
        'settings, match',
        [
            (dict(connect='OR'), "backbone.connect must be one of ADD, AND, IAND, got 'OR'"),
            (dict(connect='AND', zero_init_residual=True), 'backbone.zero_init_residual=True silences'),
            (dict(joint_neuron=dict(detach_reset=True)), 'backbone.joint_neuron belongs to SpikingResNet'),
            (dict(depth=21), 'backbone.depth'),
        ],
    )
    def test_errors(self, settings, match):
        with pytest.raises(ValueError, match=match):
            small(**settings)

    def test_zero_init_residual_leaves_the_shortcut(self, lively):
        """With ADD a block whose last norm is 0 passes its input on."""
        model = small(zero_init_residual=True, readout='none')
        model.init_weights()
        x = torch.randint(0, 2, (6, 8, 9, 9)).float()
        with time_folded(6):
            assert torch.equal(model.layer1(x), x)
