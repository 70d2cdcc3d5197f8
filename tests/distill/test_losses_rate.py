"""FiringRate: its formula, what it counts, where its gradient goes, and that networks trained with it fire less."""

import copy
import math

import pytest
import torch
from formulas import approx, mean
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope
from tiny import Noise, classifier, detector
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mmsnn.analysis import count_energy, firing_rates
from mmsnn.distill import Distiller, FiringRate
from mmsnn.layers.time import time_folded
from mmsnn.models import SEWResNet, SpikingResNet
from mmsnn.neurons import ILIF, LIF, SpikeCounter, record


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def build(losses, student=None, **kwargs) -> Distiller:
    model = MODELS.build(dict(type='mmsnn.Distiller', student=student or classifier(True), losses=losses, **kwargs))
    model.init_weights()
    return model


def images(*shape):
    return torch.rand(*(shape or (2, 3, 64, 64))) * 3


def totals(*rows):
    return [torch.tensor(row, dtype=torch.float64) for row in rows]


class TestFormula:
    ROWS = (30.0, 100.0), (5.0, 400.0), (0.0, 50.0)

    @pytest.mark.parametrize('target', [0.01, 0.05, 0.0637])
    def test_rate(self, target):
        """Over all neurons together, each as one."""
        r = 35 / 550
        expected = math.log(max(r, target) / target) ** 2
        assert FiringRate(rate=target, floor=0)(totals(*self.ROWS)).item() == pytest.approx(expected, **approx)

    def test_layerwise(self):
        rates = [0.3, 0.0125, 0.0]
        expected = mean(math.log(max(r, 0.01) / 0.01) ** 2 for r in rates)
        found = FiringRate(rate=0.01, layerwise=True, floor=0)(totals(*self.ROWS))
        assert found.item() == pytest.approx(expected, **approx)

    def test_synops(self):
        """Operations of one image, of as many as there could be."""
        rows = totals((75.0, 1000.0), (25.0, 600.0))
        assert FiringRate(synops=20)(rows).item() == pytest.approx(math.log(5) ** 2, **approx)
        assert FiringRate(synops=101)(rows) == 0
        shares = [75 / (20 * 1000 / 1600), 25 / (20 * 600 / 1600)]
        expected = mean(math.log(s) ** 2 for s in shares)
        assert FiringRate(synops=20, layerwise=True)(rows).item() == pytest.approx(expected, **approx)

    def test_floor(self):
        """Every layer that falls below a share of the target is lifted, whatever the others do."""
        rates, target = [0.3, 0.0125, 0.0], 0.1
        bound = sum(max(1 - r / (0.5 * target), 0) ** 2 for r in rates)
        assert FiringRate(rate=target, floor=0.5)(totals(*self.ROWS)).item() == pytest.approx(bound, **approx)
        silent = torch.tensor([0.0, 100.0], requires_grad=True)
        FiringRate(rate=0.1)([silent]).backward()
        assert silent.grad[0] < 0

    def test_near_the_target_it_is_the_squared_relative_error(self):
        found = FiringRate(rate=0.1)(totals((10.01, 100.0)))
        assert found.item() == pytest.approx(0.001**2, rel=2e-3)

    def test_gradient(self):
        """Above the target as differences say; below, and of a silent network, there is none and nothing is NaN."""
        rows = totals(*self.ROWS)
        for row in rows:
            row.requires_grad_()
        loss = FiringRate(rate=0.02, floor=0.9)
        assert torch.autograd.gradcheck(lambda *spikes: loss([torch.stack([s, r[1]]) for s, r in zip(spikes, rows)]),
                                        [r.detach()[0].requires_grad_() for r in rows])  # fmt: skip
        silent = torch.tensor([0.0, 100.0], requires_grad=True)
        FiringRate(rate=0.02, floor=0)([silent]).backward()
        assert silent.grad.tolist() == [0, 0]

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (dict(), 'either rate'),
            (dict(rate=0.1, synops=1e6), 'either rate'),
            (dict(rate=0), 'rate must be positive'),
            (dict(rate=float('nan')), 'rate must be positive'),
            (dict(rate='5%'), 'rate must be positive'),
            (dict(synops=-1), 'synops must be positive'),
            (dict(rate=0.1, floor=2), 'floor'),
        ],
    )
    def test_wrong_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            FiringRate(**arguments)


class TestWhatItCounts:
    @pytest.fixture(params=['sew', 'spiking', 'packed', 'integers', 'apart'])
    def network(self, request, lively):
        neuron = dict(type='ILIF', levels=3) if request.param == 'integers' else dict(type='LIF')
        more = dict(packed_spikes=True) if request.param == 'packed' else {}
        if request.param == 'apart':
            neuron['fuse_norm'] = False
        kind = SpikingResNet if request.param == 'spiking' else SEWResNet
        return lively(kind(depth=18, base_channels=8, T=2, neuron=neuron, **more)).eval()

    def test_rates(self, network):
        loss, x = FiringRate(rate=1e-3, floor=0), images()
        with loss.watch(network) as seen:
            network(x)
        expected = firing_rates(network, x)
        found = {name: (row[0] / row[1]).item() for name, row in zip(seen.amounts, seen.totals())}
        assert found == pytest.approx(dict(expected))
        assert loss(seen.totals()).item() == pytest.approx(math.log(expected.mean / 1e-3) ** 2, rel=1e-5)
        assert expected.mean > 0.01

    def test_synaptic_operations(self, network):
        loss, x = FiringRate(synops=1000, floor=0), images()
        with loss.watch(network) as seen:
            network(x)
        seen.images = len(x)
        acs = count_energy(network, x).total('acs')
        assert sum(row[0] for row in seen.totals()).item() == pytest.approx(acs) and acs > 1000
        assert loss(seen.totals()).item() == pytest.approx(math.log(acs / 1000) ** 2, rel=1e-4)

    def test_the_number_of_images_is_needed(self, network):
        loss = FiringRate(synops=1000)
        with loss.watch(network) as seen:
            network(images())
        with pytest.raises(ValueError, match='seen.images = len'):
            seen.totals()

    def test_one_loss_on_two_networks(self, network):
        """Whether a layer has spikes is asked of each network."""
        other = copy.deepcopy(network)
        x, both = images(), FiringRate(synops=1000, floor=0)
        # the first convolution of the other one has spikes
        inputs = dict(network=x, other=(x > 0.5).float())
        found = {}
        for loss, kept in ((both, found), (None, alone := {})):
            for name, net in (('network', network), ('other', other)):
                each = loss or FiringRate(synops=1000, floor=0)
                with each.watch(net) as seen:
                    net(inputs[name])
                seen.images = len(x)
                kept[name] = each(seen.totals()).item()
        assert found == pytest.approx(alone) and found['network'] != found['other']

    def test_nothing_changes(self, network):
        """Outputs and the other terms' gradients are bit for bit those of an unwatched network."""
        x, found = images(), []
        for watched in (False, True):
            twin = copy.deepcopy(network).train()
            if watched:
                with FiringRate(rate=0.01).watch(twin), FiringRate(synops=1).watch(twin):
                    out = twin(x)
            else:
                out = twin(x)
            sum(o.square().mean() for o in out).backward()
            found.append([*out, *(p.grad for p in twin.parameters())])
        for a, b in zip(*found, strict=True):
            assert (a is None and b is None) or torch.equal(a, b)

    def test_names(self, network):
        def layers(*names, **target):
            with FiringRate(**(target or dict(rate=0.1))).watch(network, *names) as seen:
                network(images())
            return list(seen.amounts)

        everything = layers()
        assert layers('layer1') == [n for n in everything if n.startswith('layer1.')] != []
        assert layers('*.0.neuron1') == [n for n in everything if n.endswith('.0.neuron1')]
        first = [n for n in everything if n.startswith('layer2')][0]
        assert layers(first, 'layer4') == [first, *(n for n in everything if n.startswith('layer4'))]
        assert {n.partition('.')[0] for n in layers('layer3', synops=1)} == {'layer3'}

    def test_gradient_is_that_of_the_mean_of_recorded_spikes(self, network):
        """Also where a neuron's spikes lead nowhere else."""
        x, grads = images(), []
        for ours in (True, False):
            twin = copy.deepcopy(network).train()
            if ours:
                loss = FiringRate(rate=0.001, floor=0)
                with loss.watch(twin) as seen:
                    twin(x)
                loss(seen.totals()).backward()
            else:
                with record(twin) as found:
                    twin(x)
                maps = [s for name in found for s in found.calls(name)]
                rate = sum(s.sum() for s in maps) / sum(s.numel() for s in maps)
                (rate / 0.001).log().square().backward()
            grads.append({n: p.grad for n, p in twin.named_parameters() if p.grad is not None})
        assert grads[0].keys() == grads[1].keys() and 'conv1.weight' in grads[0]
        for name, grad in grads[0].items():
            torch.testing.assert_close(grad, grads[1][name], rtol=1e-3, atol=1e-5, msg=name)
            assert grad.any()

    def test_shared_neuron_counts_at_every_place(self):
        neuron = LIF(T=2)
        model = nn.Sequential(neuron, nn.Linear(4, 4), neuron)
        loss = FiringRate(rate=0.01)
        with loss.watch(model) as seen:
            model(torch.ones(6, 4, requires_grad=True) * 3)
        ((spikes, of),) = seen.totals()
        assert of == 48 and spikes >= 24

    @pytest.mark.parametrize('target', [dict(rate=0.001), dict(synops=10.0)])
    def test_checkpointing(self, target):
        """What is repeated in the backward pass counts once."""
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), ILIF(T=2), nn.Conv2d(8, 8, 3))
        x, found = images(4, 3, 8, 8), []
        for run in (model, lambda x: checkpoint(model, x, use_reentrant=False)):
            loss = FiringRate(**target)
            model.zero_grad()
            with loss.watch(model) as seen, time_folded(4):
                run(x)
                seen.images = 1
                value = loss(seen.totals())
                value.backward()
            found.append((value.item(), seen.totals()[0][1].item(), model[0].weight.grad.clone()))
        assert found[0][:2] == found[1][:2] and torch.equal(found[0][2], found[1][2]) and found[0][2].any()


class TestInADistiller:
    def test_alone(self):
        """No teacher, no taps: one line."""
        model = build(dict(rate=dict(type='FiringRate', rate=0.01, weight=0.5)))
        assert model.teachers == {} and len(model.connectors) == 0
        data = model.data_preprocessor(Noise('mmpretrain').batch(0, 1, 2), True)
        found = model.loss(**data)
        assert set(found) == {'loss', 'loss_rate'}
        rate = firing_rates(model.student.train(), data['inputs'])  # eval mode: other norms
        assert found['loss_rate'] > 0 and rate.mean > 0
        found['loss_rate'].backward()
        assert model.student.backbone.conv1.weight.grad.abs().sum() > 0

    def test_beside_other_terms_and_on_a_schedule(self):
        losses = dict(
            loss_kl=dict(type='LogitKL', student='head', teacher='head'),
            loss_rate=dict(
                type='FiringRate',
                student=['backbone.layer1', 'backbone.layer2'],
                rate=0.01,
                weight=dict(kind='linear', values=[0.0, 1.0], milestones=[0, 10], by='iter'),
            ),
        )
        model = build(losses, teacher=classifier(False)).eval()
        data = model.data_preprocessor(Noise('mmpretrain').batch(0, 1), True)
        assert model.loss(**data)['loss_rate'] == 0
        model.progress.iter = 5
        half = model.loss(**data)['loss_rate']
        model.progress.iter = 10
        assert half > 0
        torch.testing.assert_close(model.loss(**data)['loss_rate'], 2 * half)

    def test_synops_are_those_of_one_image(self):
        model = build(dict(rate=dict(type='FiringRate', synops=100.0, floor=0.0))).eval()
        data = model.data_preprocessor(Noise('mmpretrain').batch(0, 1, 2), True)
        acs = count_energy(model.student.backbone, data['inputs']).total('acs')
        found = model.loss(**data)['loss_rate'].item()
        assert found == pytest.approx(math.log(acs / 100) ** 2, rel=1e-4)

    def test_detector(self):
        with DefaultScope.overwrite_default_scope('mmdet'):
            model = build(dict(rate=dict(type='FiringRate', rate=1e-3)), student=detector(True))
            data = model.data_preprocessor(Noise('mmdet').batch(0, 1), True)
            found = model.loss(**data)
        assert set(found) == {'loss_cls', 'loss_bbox', 'loss_rate'} and found['loss_rate'] > 0

    @pytest.mark.parametrize(
        ('term', 'message'),
        [
            (dict(student='backbone.layer9', rate=0.1), "losses.rate: 'backbone.layer9' matches no neuron"),
            (dict(student='head', rate=0.1), 'losses.rate: head is a LinearClsHead, not a spiking neuron'),
            (dict(rate=0.1, connector=dict(type='ConvBN')), 'losses.rate: FiringRate watches neurons'),
            (dict(), 'losses.rate: FiringRate: set either rate'),
            (dict(rate=0.1, target=3), 'losses.rate.*target'),
        ],
    )
    def test_wrong_configs(self, term, message):
        with pytest.raises(ValueError, match=message):
            build(dict(rate=dict(type='FiringRate', **term)))

    def test_a_network_without_neurons(self):
        with pytest.raises(ValueError, match='has no spiking neuron'):
            build(dict(rate=dict(type='FiringRate', rate=0.1)), student=classifier(False))

    def test_frozen_layers(self):
        losses = dict(rate=dict(type='FiringRate', rate=0.1, student='backbone.layer1'))
        model = build(losses, student=classifier(True, frozen_stages=1)).train()
        with pytest.raises(ValueError, match='carries no gradient'):
            model.loss(**model.data_preprocessor(Noise('mmpretrain').batch(0, 1), True))

    @pytest.mark.parametrize(('target', 'reached'), [(dict(rate=0.01), 1.4), (dict(synops=5e4), 2.4)])
    def test_rates_fall_in_training(self, target, reached):
        """From several times the target, while the network goes on learning its labels and no layer falls silent."""
        model = build(dict(rate=dict(type='FiringRate', **target, floor=0.2))).train()
        data = model.data_preprocessor(Noise('mmpretrain').batch(*range(8)), True)
        optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9))
        factors, losses, upper = [], [], FiringRate(**target, floor=0)
        for _ in range(60):
            with upper.watch(model.student) as seen, SpikeCounter(model.student) as counter:
                terms = model.loss(**data)
            seen.images = 8
            factors.append(math.exp(upper(seen.totals()).sqrt().item()))
            losses.append(terms['loss'].item())
            optimizer.update_params(sum(terms.values()))
        assert factors[0] > 3 and max(factors[-5:]) < reached, factors
        assert losses[-1] < 0.8 * losses[0]
        assert not counter.rates().silent


def test_a_loop_of_ones_own():
    """Plain PyTorch, as in the docstring."""
    model = nn.Sequential(nn.Linear(6, 32), LIF(T=2), nn.Linear(32, 3))
    loss = FiringRate(rate=0.05)
    with loss.watch(model) as seen:
        out = model(torch.rand(8, 6) * 4)
    (F.cross_entropy(out, torch.arange(8) % 3) + loss(seen.totals())).backward()
    assert model[0].weight.grad.any()
    with pytest.raises(ValueError, match='none of what it watches was called'):
        loss.watch(model).totals()
