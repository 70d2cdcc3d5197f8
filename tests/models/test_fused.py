"""Norm and neuron in one op, and packed spikes: the same network, the same keys, less memory."""

import pytest
import torch
from torch import nn

from mmsnn.layers import SpikeConv2d
from mmsnn.models import MSResNet, SEWResNet, SpikingResNet, SpikingVGG
from mmsnn.neurons import ILIF, LIF, PLIF, expand_levels
from mmsnn.ops.extension import compiled


@pytest.fixture(autouse=True)
def small_maps_too(monkeypatch):
    monkeypatch.setattr('mmsnn.neurons.base.FUSE_FROM', 0)


NETWORKS = [
    (SEWResNet, dict()),
    (SEWResNet, dict(connect='IAND')),
    (SEWResNet, dict(depth=50, deep_stem=True, avg_down=True)),
    (SEWResNet, dict(neuron=dict(type='ILIF'))),
    (SpikingResNet, dict()),
    (SpikingResNet, dict(depth=50, stem='cifar')),
]
# whose fused norms are checked beside the networks, in double precision
MORE = [
    (MSResNet, dict()),
    (MSResNet, dict(deep_stem=True, avg_down=True)),
    (SpikingVGG, dict(depth=9)),
    (SpikingVGG, dict(depth=11, pool='avg')),
]


def run(cls, config, memory_format=torch.contiguous_format, fuse_norm=True, **more):
    neuron = {**config.get('neuron', dict(type='LIF')), 'fuse_norm': fuse_norm}
    torch.manual_seed(0)
    model = cls(**{'depth': 18, **config, 'neuron': neuron}, T=2, base_channels=8, **more)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.8, 2.0)
    model = model.to(memory_format=memory_format)
    kept = []
    torch.manual_seed(1)
    x = torch.randn(3, 3, 64, 64).contiguous(memory_format=memory_format)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (kept.append(t.numel() * t.element_size()), t)[1], lambda t: t
    ):
        outs = model(x)
    sum((o * o).sum() for o in outs).backward()
    return model, outs, sum(kept)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('cls, config', NETWORKS)
def test_fused_norm(cls, config, memory_format):
    fused, outs, kept = run(cls, config, memory_format)
    parted, expected, before = run(cls, config, memory_format, fuse_norm=False)
    assert all(o.any() for o in expected) and kept < before
    for a, b in zip(outs, expected):
        torch.testing.assert_close(a, b)
    for (name, a), (other, b) in zip(fused.named_parameters(), parted.named_parameters()):
        assert name == other
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3 * float(b.grad.abs().max()), msg=name)
    for (name, a), (other, b) in zip(fused.state_dict().items(), parted.state_dict().items()):
        assert name == other
        torch.testing.assert_close(a, b, msg=name)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('cls, config', NETWORKS + MORE)
def test_packed_spikes(cls, config, memory_format):
    packed, outs, kept = run(cls, config, memory_format, packed_spikes=True)
    plain, expected, before = run(cls, config, memory_format)
    assert any(isinstance(m, SpikeConv2d) for m in packed.modules()) and kept < before
    assert packed.state_dict().keys() == plain.state_dict().keys()
    for a, b in zip(outs, expected):
        assert torch.equal(a, b)
    for (name, a), (_, b) in zip(packed.named_parameters(), plain.named_parameters()):
        assert torch.equal(a.grad, b.grad), name


@pytest.mark.skipif(compiled() is None, reason='no compiled kernels')
@pytest.mark.parametrize('cls, config', NETWORKS + MORE)
def test_training_on_events(cls, config, monkeypatch):
    """All convolutions of spikes run on events here, whether that pays or not."""
    for name, value in dict(DENSEST=1, SMALLEST=1, NARROWEST=1).items():
        monkeypatch.setattr(f'mmsnn.ops.packed_conv.{name}', value)
    seen, op = [], torch.ops.mmsnn.event_conv
    monkeypatch.setattr(torch.ops.mmsnn, 'event_conv', lambda *a: (seen.append(a), op(*a))[1])
    events, outs, _ = run(cls, config, torch.channels_last, packed_spikes='event')
    packed, expected, _ = run(cls, config, torch.channels_last, packed_spikes=True)
    assert len(seen) >= sum(isinstance(m, SpikeConv2d) for m in packed.modules()) > 0
    for a, b in zip(outs, expected):
        torch.testing.assert_close(a, b)
    for (name, a), (_, b) in zip(events.named_parameters(), packed.named_parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3 * float(b.grad.abs().max()), msg=name)


@pytest.mark.parametrize('cls, config', NETWORKS[:1] + MORE[-1:])
def test_other_packing_is_refused(cls, config):
    with pytest.raises(ValueError, match=r"packed_spikes must be False, True or 'event', got 'events'"):
        run(cls, config, torch.channels_last, packed_spikes='events')


class TestAfter:
    def test_one_op(self):
        norm, neuron = nn.BatchNorm2d(3), LIF(T=2)
        x = torch.randn(4, 3, 5, 5) * 3
        assert torch.equal(neuron.after_norm(norm.eval(), x), neuron(norm(x)))

    def test_small_maps_stay_apart(self, monkeypatch):
        """Where one op would take longer than two."""
        calls = []
        monkeypatch.setattr('mmsnn.neurons.base.FUSE_FROM', 300)
        monkeypatch.setattr('mmsnn.neurons.base.bn_lif', lambda x, T, **_: calls.append(len(x)) or x)
        for size in (2, 4):
            LIF(T=2).after_norm(nn.BatchNorm2d(3), torch.randn(size, 3, 5, 5))
        assert calls == [4]
        LIF(T=2).after_norm(nn.SyncBatchNorm(3), torch.randn(2, 3, 5, 5))
        assert calls == [4, 2], 'processes with batches of several sizes must not part'

    def test_a_watched_norm_stays_apart(self):
        norm, seen = nn.BatchNorm2d(3), []
        handle = norm.register_forward_hook(lambda module, inputs, out: seen.append(out))
        neuron = LIF(T=2)
        neuron.after_norm(norm, torch.randn(4, 3, 5, 5))
        assert len(seen) == 1 and not neuron.can_fuse(norm) and neuron.can_fuse(nn.BatchNorm2d(3))
        handle.remove()
        assert neuron.can_fuse(norm)

    def test_a_watched_sequence_stays_whole(self):
        layers, seen = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), []
        layers.register_forward_hook(lambda module, inputs, out: seen.append(out))
        LIF(T=2).after_norm(layers, torch.randn(4, 3, 5, 5))
        assert len(seen) == 1

    @pytest.mark.parametrize('norm', [nn.GroupNorm(1, 3), nn.InstanceNorm2d(3), nn.Identity()])
    def test_other_norms(self, norm):
        x = torch.randn(4, 3, 5, 5)
        assert torch.equal(LIF(T=2).after_norm(norm, x), LIF(T=2)(norm(x)))

    @pytest.mark.parametrize(
        'options', [dict(), dict(momentum=None), dict(track_running_stats=False), dict(affine=False)]
    )
    def test_the_norm_counts_as_it_would_alone(self, options):
        one, two = nn.BatchNorm2d(3, **options), nn.BatchNorm2d(3, **options)
        neuron = PLIF(T=2)
        for step in range(4):
            one.train(step != 2), two.train(step != 2)
            x = torch.randn(4, 3, 5, 5) + step
            torch.testing.assert_close(neuron.after_norm(one, x), neuron(two(x)))
        for name, value in two.state_dict().items():
            torch.testing.assert_close(one.state_dict()[name], value, msg=name)

    def test_frozen_norm_still_learns_nothing_of_the_batch(self):
        norm = nn.BatchNorm2d(3).eval()
        LIF(T=2).after_norm(norm, torch.randn(4, 3, 5, 5) + 7)
        assert not norm.running_mean.any() and norm.num_batches_tracked == 0

    def test_expanded_neurons_stay_apart(self):
        model = nn.Sequential(ILIF(T=2, levels=2))
        assert model[0].can_fuse(nn.BatchNorm2d(3))
        assert not expand_levels(model)[0].can_fuse(nn.BatchNorm2d(3))
