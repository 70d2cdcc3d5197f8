"""What `mmsnn.record` finds, by hand, against the reference, and in every place where a neuron may be."""

import copy
from dataclasses import replace

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from tiny import classifier
from torch import nn
from torch.utils.checkpoint import checkpoint

import mmsnn
from mmsnn.layers import fold
from mmsnn.models import SEWResNet, Spikify
from mmsnn.neurons import ILIF, LIF, PLIF, Neuron, expand_levels
from mmsnn.ops import reference

T, B = 4, 3
NAME = 'layer1.0.neuron1'


@pytest.fixture(autouse=True)
def small_maps_too(monkeypatch):
    monkeypatch.setattr('mmsnn.neurons.base.FUSE_FROM', 0)


def network(lively, **neuron):
    torch.manual_seed(0)
    settings = dict(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,))
    return lively(SEWResNet(18, T=T, base_channels=8, neuron=dict(type='LIF', **neuron), **settings))


def hooks(model):
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


class TestValues:
    def test_by_hand(self):
        """Charge v + (x - v) / 2; the potential is that before a spike sets it to 0."""
        net = nn.Sequential(LIF(T=5))
        with mmsnn.record(net, '0', what=('spikes', 'v', 'rate')) as found:
            net(torch.tensor([[1.5], [1.5], [1.0], [2.0], [0.75]]))
        assert found['0']['v'].squeeze().tolist() == [0.75, 1.125, 0.5, 1.25, 0.375]
        assert found['0']['spikes'].squeeze().tolist() == [0, 1, 0, 1, 0]
        assert found['0']['rate'].item() == pytest.approx(0.4) and found['0']['v'].shape == (5, 1, 1)

    def test_of_a_call_that_starts_elsewhere(self):
        net = nn.Sequential(LIF(T=1))
        with mmsnn.record(net, what='v') as found:
            net[0](torch.ones(1, 2), v_init=torch.full((1, 2), 0.5))
        assert found['0'].tolist() == [[[0.75, 0.75]]]

    @pytest.mark.parametrize('train', [True, False])
    @pytest.mark.parametrize('kind', [LIF, PLIF, ILIF])
    def test_norm_and_neuron_in_one_op(self, kind, train):
        """Against the recurrence on what the norm makes of the input."""
        torch.manual_seed(0)
        net = nn.ModuleDict(dict(norm=nn.BatchNorm2d(3), neuron=kind(T=T, tau=1.7))).train(train)
        nn.init.uniform_(net['norm'].weight, 1, 2)
        x = (3 * torch.randn(T * B, 3, 5, 5)).requires_grad_()
        y = copy.deepcopy(net['norm'])(x.detach()).requires_grad_()
        v, expected = torch.zeros(B, 3, 5, 5), []
        settings = replace(net['neuron'].settings, tau=1.7)
        spikes = reference.lif(y, T, settings).unflatten(0, (T, B))
        for current, s in zip(y.unflatten(0, (T, B)), spikes):
            h = v + (current - v) / 1.7 if settings.decay_input else v - v / 1.7 + current
            expected.append(h)
            v = h - s if settings.v_reset is None else (1 - s) * h
        with mmsnn.record(net, 'neuron', what=('spikes', 'v')) as found:
            out = net['neuron'].after_norm(net['norm'], x)
        assert torch.equal(found['neuron']['spikes'], out.unflatten(0, (T, B)))
        torch.testing.assert_close(found['neuron']['v'], torch.stack(expected), rtol=1e-5, atol=1e-5)
        (grad,) = torch.autograd.grad(found['neuron']['v'].square().sum(), x)
        assert grad.abs().sum() > 0

    @pytest.mark.parametrize('train', [True, False])
    def test_nothing_changes(self, lively, train):
        """Outputs and statistics to the bit, and nothing stays."""
        model, x = network(lively).train(train), torch.randn(B, 3, 32, 32)
        plain = copy.deepcopy(model)
        before = hooks(model)
        with mmsnn.record(model, what=('spikes', 'v')) as found:
            out = model(x)[0]
        assert hooks(model) == before and torch.equal(out, plain(x)[0])
        for (name, a), b in zip(model.state_dict().items(), plain.state_dict().values()):
            assert torch.equal(a, b), name
        names = [name for name, m in model.named_modules() if isinstance(m, Neuron)]
        assert list(found) == names and all(found[name]['spikes'].any() for name in names)
        assert all(found[name]['v'].shape[:2] == (T, B) for name in names)

    def test_after_an_in_place_addition(self):
        class InPlace(nn.Module):
            def __init__(self):
                super().__init__()
                self.neuron = LIF(T)

            def forward(self, x):
                spikes = self.neuron(x)
                spikes += 10
                return spikes

        net = InPlace()
        with mmsnn.record(net) as found:
            net(torch.rand(T * B, 2))
        assert found['neuron'].max() <= 1

    def test_expanded(self):
        """Integers and their micro-steps have the same rate, and micro-steps no potential."""
        torch.manual_seed(0)
        net = nn.Sequential(ILIF(T=2, levels=2))
        x = 3 * torch.rand(2, B, 5)
        with mmsnn.record(net, what='rate') as integers:
            net(fold(x))
        expand_levels(net)
        with mmsnn.record(net, what='rate') as micro:
            net(fold(x.repeat_interleave(2, 0)))
        torch.testing.assert_close(integers['0'], micro['0'])
        with pytest.raises(RuntimeError, match='micro-steps'), mmsnn.record(net, what='v'):
            net(fold(x.repeat_interleave(2, 0)))
        assert hooks(net) == [0, 0]


class TestCalls:
    def test_a_shared_neuron(self):
        neuron = LIF(T)
        net = nn.Sequential(nn.Linear(5, 7), neuron, nn.Linear(7, 2), neuron)
        with mmsnn.record(net, '1', what='v') as found:
            net(torch.randn(T * B, 5))
        assert [v.shape for v in found['1']] == [(T, B, 7), (T, B, 2)] == [v.shape for v in found.calls('1')]
        with mmsnn.record(net, '3') as found:
            net(torch.randn(T * B, 5))
        assert list(found) == ['3']
        with mmsnn.record(net) as found:
            net(torch.randn(T * B, 5))
            net(torch.randn(T * B, 5))
            assert len(found['1']) == 4 and list(found) == ['1']
            found.clear()
        assert not found

    @pytest.mark.parametrize('reentrant', [False, True])
    def test_checkpointing(self, lively, reentrant):
        """One call, and the gradients of the network without anybody watching."""
        model, x = network(lively).double(), torch.randn(B, 3, 32, 32, dtype=torch.double)
        gradients = []
        for watched in (False, True):
            model.zero_grad()
            each = copy.deepcopy(model)
            forward = each.layer2.forward
            each.layer2.forward = lambda x, f=forward: checkpoint(f, x, use_reentrant=reentrant)
            if watched:
                with mmsnn.record(each, 'layer2.*', what=('v', 'spikes')) as found:
                    out = each(x)[0]
                out.sum().backward()
                assert all(len(found.calls(name, 'v')) == 1 for name in found) and len(found) == 5
            else:
                each(x)[0].sum().backward()
            gradients.append([p.grad for p in each.parameters()])
        for a, b in zip(*gradients):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


class TestModels:
    @pytest.mark.kernels
    def test_compiled(self, lively):
        model, x = network(lively).eval(), torch.randn(B, 3, 32, 32)
        with mmsnn.record(model, NAME, what='v') as expected:
            model(x)
        torch.compiler.reset()
        compiled = torch.compile(model, backend='eager')
        compiled(x)
        with mmsnn.record(compiled, NAME, what='v') as found:
            compiled(x)
        assert torch.equal(found[NAME], expected[NAME])

    def test_distiller(self):
        logits = dict(type='LogitKL', student='head', teacher='head', tau=2.0)
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            parts = dict(student=classifier(True), teacher=classifier(False), losses=dict(loss_kl=logits))
            model = MODELS.build(dict(type='mmsnn.Distiller', **parts))
        with mmsnn.record(model, f'backbone.{NAME}', what='rate') as found:
            model(torch.randn(B, 3, 32, 32))
        assert found[f'backbone.{NAME}'].shape[0] == B

    def test_spikify(self):
        """PLIF neurons of a shared activation, one a use."""
        backbone = dict(type='mmpretrain.ResNet', depth=18, base_channels=8, stem_channels=8)
        model = Spikify(backbone, T=T, neuron=dict(type='PLIF'))
        with mmsnn.record(model, 'layer1.0.*') as found:
            model(torch.randn(B, 3, 32, 32))
        assert list(found) == ['layer1.0.relu.0', 'layer1.0.relu.1']

    def test_data_parallel_names(self, lively):
        class Wrapped(nn.Module):
            def __init__(self, module):
                super().__init__()
                self.module = module

        assert repr(mmsnn.record(Wrapped(network(lively)), NAME)).endswith(f'{NAME}: 0 calls)')


class TestErrors:
    @pytest.mark.parametrize(
        'name, match',
        [
            ('layer1.0.neuron', r"'layer1.0.neuron' matches no neuron of SEWResNet; there are .*layer1\.0\.neuron1"),
            ('layer9.*', 'matches no neuron .*layer'),
            ('layer1', r"layer1 is not a neuron, but holds 4: layer1.0.neuron1, .*For all of them: 'layer1\.\*'"),
            ('layer1.0.conv1', 'layer1.0.conv1 is a Conv2d, not a spiking neuron'),
        ],
    )
    def test_names(self, lively, name, match):
        with pytest.raises(ValueError, match=match):
            mmsnn.record(network(lively), NAME, name)

    def test_no_neuron(self):
        with pytest.raises(ValueError, match='Linear has no spiking neuron'):
            mmsnn.record(nn.Linear(1, 1))

    @pytest.mark.parametrize('what', ['u', (), ('v', 'w')])
    def test_what(self, what):
        with pytest.raises(ValueError, match='what must be one or several of spikes, v, rate'):
            mmsnn.record(LIF(T), what=what)

    def test_what_was_not_recorded(self, lively):
        found = mmsnn.record(network(lively), NAME, what=('v', 'rate'))
        with pytest.raises(KeyError, match='was not called inside the context'):
            found[NAME]
        with pytest.raises(KeyError, match='layer1.0.neuron2 is not recorded'):
            found['layer1.0.neuron2']
        with pytest.raises(ValueError, match='what must be one of the recorded v, rate'):
            found.calls(NAME)
