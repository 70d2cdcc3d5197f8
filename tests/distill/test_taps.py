"""Taps and the recorder that reads them."""

from functools import partial
from itertools import permutations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmsnn.distill import Recorder, Tap
from mmsnn.layers import fold
from mmsnn.models import SEWResNet, SpikingResNet
from mmsnn.neurons import Neuron
from mmsnn.ops import reference


class Net(nn.Module):
    """Layers called once, twice and never; one with several outputs, one with others than tensors."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 1)
        self.many = Many()
        self.mixed = Mixed()
        self.idle = nn.Identity()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.norm(self.conv(x))
        self.many(x)
        self.mixed(x)
        return self.norm(x)


class Many(nn.Module):
    def forward(self, x):
        return [x, 2 * x], [3 * x]


class Mixed(nn.Module):
    def forward(self, x):
        return x, 'text'


def record(model, spec, x, role='teacher', time='mean', **kwargs):
    tap = Tap.parse(spec, time)
    with Recorder(model, [tap], role, **kwargs) as recorder:
        model(x)
    return recorder.get(tap)


class TestNames:
    def test_parse(self):
        assert Tap.parse('backbone.layer1') == Tap('backbone.layer1')
        assert Tap.parse('bbox_head[1]', 'steps') == Tap('bbox_head', 1, 'steps')
        texts = ['a.b_2.c', 'head[10]', 'a.b@v', 'a@v|neck|head.fc']
        assert [str(Tap.parse(text)) for text in texts] == texts

    @pytest.mark.parametrize('spec', ['', 'a[b]', 'a[1][2]', 'a[1]@v', 'a@w', 'a[-1]', 'a b', 3, None, ['a']])
    def test_errors(self, spec):
        with pytest.raises(ValueError, match=r"a tap is written 'module.name', 'module.name\[0\]' or"):
            Tap.parse(spec)

    def test_no_such_module(self):
        model = SEWResNet(18, T=2, base_channels=8)
        with pytest.raises(
            ValueError, match=r"student tap 'layer1.2.conv1' names no module of SEWResNet: layer1 has 0, 1"
        ):
            Recorder(model, [Tap.parse('layer1.2.conv1')], 'student')
        # an attribute, but no module
        with pytest.raises(ValueError, match="teacher tap 'depth' names no module.*the model has .*conv1"):
            Recorder(model, [Tap.parse('depth')], 'teacher')


class TestRecorder:
    def test_output(self):
        model, x = Net(), torch.randn(3, 2, 4, 4)
        (out,) = record(model, 'conv', x)
        assert torch.equal(out, model.conv(x))

    def test_every_call_counts(self):
        model, x = Net().eval(), torch.randn(3, 2, 4, 4)
        first, second = record(model, 'norm', x)
        torch.testing.assert_close(second, model.norm(first))

    def test_items(self):
        model, x = Net(), torch.randn(3, 2, 4, 4)
        y = model.norm(model.conv(x))
        outs = record(model, 'many[0]', x)
        assert len(outs) == 2
        torch.testing.assert_close(outs[1], 2 * y)
        torch.testing.assert_close(record(model, 'many[1]', x)[0], 3 * y)

    @pytest.mark.parametrize(
        'spec, match',
        [
            ('many[2]', r'teacher tap many\[2\]: the output of many has no item 2'),
            ('conv[0]', r'teacher tap conv\[0\]: the output of conv has no item 0'),
            ('many', r"teacher tap many gives \['list', 'list'\], not tensors: add an index, as in 'many\[1\]'"),
            ('mixed', r"teacher tap mixed gives \['Tensor', 'str'\], not tensors: add an index, as in 'mixed\[0\]'"),
            ('idle', 'teacher tap idle: the module was not called in this forward'),
        ],
    )
    def test_errors(self, spec, match):
        with pytest.raises(ValueError, match=match):
            record(Net(), spec, torch.randn(3, 2, 4, 4))

    def test_two_taps_of_one_module_are_gone_afterwards(self):
        """A listener that stayed would keep the outputs of every later forward."""
        model, x = Net(), torch.randn(3, 2, 4, 4)
        for taps in permutations(map(Tap.parse, ('many[0]', 'many[1]', 'mixed[0]'))):
            with Recorder(model, taps, 'teacher') as recorder:
                model(x)
            assert all('forward' not in module.__dict__ for module in model.modules())
            model(x)
            assert [len(recorder.get(tap)) for tap in map(Tap.parse, ('many[0]', 'many[1]'))] == [2, 1]

    def test_hooks_are_gone_afterwards(self):
        model, x = Net(), torch.randn(3, 2, 4, 4)
        record(model, 'conv', x)
        with pytest.raises(ValueError):
            record(model, 'mixed', x)
        assert not any(m._forward_hooks for m in model.modules())
        tap = Tap.parse('conv')
        with Recorder(model, [tap], 'teacher') as recorder:
            model(x)
        model(x)
        assert len(recorder.get(tap)) == 1

    @pytest.mark.parametrize('spec', ['layer1.0.bn2', 'layer2.1.bn2'])
    def test_in_place_modification_changes_nothing(self, spec):
        """mmdet's blocks add their shortcut in place to what the last norm returned."""
        from mmdet.models import ResNet

        model = ResNet(18, base_channels=8)
        model.train(False)
        x = torch.randn(3, 3, 32, 32)
        raw = []
        norm = model.get_submodule(spec)
        handle = norm.register_forward_hook(lambda _m, inputs, out: raw.append((inputs[0].clone(), out)))
        (kept,) = record(model, spec, x)
        handle.remove()
        ((before, after),) = raw
        expected = norm(before)
        assert torch.equal(kept, expected)
        assert not torch.equal(after, expected), 'nothing was changed in place: this test shows nothing'


class TestTime:
    def test_mean_over_the_steps(self):
        model = SEWResNet(18, T=4, base_channels=8).eval()
        x = torch.randn(3, 3, 32, 32)
        (rate,) = record(model, 'layer1', x, T=4, batch_size=3)
        torch.testing.assert_close(rate, model(x)[0])
        assert rate.shape[0] == 3

    def test_single_steps(self):
        model = SpikingResNet(18, T=4, base_channels=8, readout='none').eval()
        x = torch.randn(3, 3, 32, 32)
        (steps,) = record(model, 'layer1', x, time='steps', T=4, batch_size=3)
        assert steps.shape[:2] == (4, 3)
        assert torch.equal(fold(steps), model(x)[0])

    def test_what_never_had_time_stays(self):
        """The stem's norm runs once; its output is no time step."""
        model = SEWResNet(18, T=4, base_channels=8).eval()
        x = torch.randn(3, 3, 32, 32)
        (out,) = record(model, 'bn1', x, T=4, batch_size=3)
        assert out.shape[0] == 3 and torch.equal(out, model.bn1(model.conv1(x)))
        with pytest.raises(ValueError, match='student tap bn1 has no time steps left.*backbone.layer4|neck'):
            record(model, 'bn1', x, 'student', time='steps', T=4, batch_size=3)
        # of a teacher it stands for every step
        (out,) = record(model, 'bn1', x, time='steps', T=4, batch_size=3)
        assert torch.equal(out, model.bn1(model.conv1(x)).unsqueeze(0))

    def test_steps_of_an_ann(self):
        """A network without time has one step."""
        (out,) = record(Net(), 'conv', torch.randn(3, 2, 4, 4), time='steps')
        assert out.shape == (1, 3, 4, 4, 4)


class TestGradient:
    def get(self, model, spec, x):
        return record(model, spec, x, role='student', T=2, batch_size=len(x))

    def test_is_the_students(self):
        model = SEWResNet(18, T=2, base_channels=8)
        (out,) = self.get(model, 'layer2', torch.randn(3, 3, 32, 32))
        out.sum().backward()
        assert model.conv1.weight.grad.abs().sum() > 0

    def test_frozen_stage_is_refused(self):
        model = SEWResNet(18, T=2, base_channels=8, frozen_stages=1).train()
        with pytest.raises(ValueError, match='student tap layer1 carries no gradient.*frozen_stages'):
            self.get(model, 'layer1', torch.randn(3, 3, 32, 32))
        assert self.get(model, 'layer2', torch.randn(3, 3, 32, 32))[0].requires_grad
        # nothing is trained here
        with torch.no_grad():
            assert len(self.get(model, 'layer1', torch.randn(3, 3, 32, 32))) == 1

    def test_mask_beside_features_is_named(self):
        """Masked autoencoders give the places of their patches beside the features."""

        class Masked(Net):
            def forward(self, x):
                out = super().forward(x)
                return torch.zeros(3), out, torch.ones(3)

        model = nn.ModuleDict(dict(backbone=Masked())).train()
        model.forward = lambda x: model['backbone'](x)
        x = torch.randn(3, 2, 4, 4)
        with pytest.raises(ValueError, match=r"some of its 3 tensors carry no gradient.*: 'backbone\[1\]'"):
            record(model, 'backbone', x, role='student')
        assert record(model, 'backbone[1]', x, role='student')[0].requires_grad
        with pytest.raises(ValueError, match=r'student tap backbone\[0\] carries no gradient'):
            record(model, 'backbone[0]', x, role='student')

    def test_reentrant_checkpointing_is_refused(self):
        model = SEWResNet(18, T=2, base_channels=8)
        stage = model.layer2
        forward = stage.forward
        stage.forward = lambda x: checkpoint(forward, x, use_reentrant=True)
        x = torch.randn(3, 3, 32, 32)
        with pytest.raises(ValueError, match='student tap layer2.0 carries no gradient.*reentrant'):
            self.get(model, 'layer2.0', x)
        # its output has one
        assert self.get(model, 'layer2', x)[0].requires_grad

    @pytest.mark.parametrize('spec', ['layer2', 'layer2.0', 'layer2.1.bn2'])
    def test_other_checkpointing_gives_the_same_gradient(self, spec):
        model = SEWResNet(18, T=2, base_channels=8)
        x = torch.randn(3, 3, 32, 32)
        gradients = []
        for with_cp in (False, True):
            for module in model.modules():
                if hasattr(module, 'with_cp'):
                    module.with_cp = with_cp
            model.zero_grad()
            (out,) = self.get(model, spec, x)
            out.square().sum().backward()
            gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        assert len(gradients[0]) == len(gradients[1]) > 10
        for a, b in zip(*gradients):
            torch.testing.assert_close(a, b)


class TestPotential:
    NEURON = dict(type='LIF', tau=2.0, v_threshold=0.5)

    def make(self, cls=SpikingResNet, **kwargs):
        return cls(18, T=4, base_channels=8, stem='cifar', neuron={**self.NEURON, **kwargs}).eval()

    @pytest.mark.parametrize('cls', [SpikingResNet, SEWResNet])
    def test_of_the_last_neuron(self, cls):
        """Against the recurrence, step by step, from what enters that neuron."""
        model, x = self.make(cls), torch.randn(3, 3, 16, 16)
        neuron, entered = model.layer2[1].neuron2, []
        handle = neuron.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        (found,) = record(model, 'layer2@v', x, 'student', T=4, batch_size=3)
        handle.remove()
        v, potentials = torch.zeros_like(entered[0][:3]), []
        for current in entered[0].chunk(4):
            h = v + (current - v) / 2
            potentials.append(h)
            v = torch.where(h >= 0.5, 0.0, h)
        torch.testing.assert_close(found, torch.stack(potentials).mean(0))
        (steps,) = record(model, 'layer2@v', x, 'student', T=4, batch_size=3, time='steps')
        torch.testing.assert_close(steps, torch.stack(potentials))
        (named,) = record(model, 'layer2.1.neuron2@v', x, 'student', T=4, batch_size=3)
        assert torch.equal(named, found)

    def test_only_the_tapped_neuron_parts_from_its_norm(self, monkeypatch):
        monkeypatch.setattr('mmsnn.neurons.base.FUSE_FROM', 0)
        model, x = self.make(SEWResNet), torch.randn(3, 3, 16, 16)
        neurons = {name: m for name, m in model.named_modules() if isinstance(m, Neuron)}
        apart = []

        def note(name, _neuron, _args, kwargs, _out):
            if 'norm' not in kwargs:
                apart.append(name)

        for name, neuron in neurons.items():
            neuron.register_forward_hook(partial(note, name), with_kwargs=True)
        model(x)
        before = list(apart)
        record(model, 'layer2@v', x, 'student', T=4, batch_size=3)
        assert sorted(apart) == sorted([*before, *before, 'layer2.1.neuron2'])
        model(x)
        assert len(apart) == 3 * len(before) + 1, 'for good'

    def test_gradient(self):
        """Through charge, leak and reset: against finite differences of the smooth neuron."""
        x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
        settings = dict(tau=1.7, v_threshold=0.8, v_reset=0.1, decay_input=False, detach_reset=False)

        def mean_potential(x):
            spikes = reference.lif(x, 4, **settings, surrogate='sigmoid', smooth=True)
            return reference.potentials(x, spikes, 4, **settings).square().sum()

        assert torch.autograd.gradcheck(mean_potential, x)

    def test_no_neuron(self):
        with pytest.raises(ValueError, match='student tap .layer1.0.conv1@v.: layer1.0.conv1 has no spiking neuron'):
            Recorder(self.make(), [Tap.parse('layer1.0.conv1@v')], 'student')
