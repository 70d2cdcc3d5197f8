"""A network on events gives the dense network's spikes, and stays a network as any other."""

import collections
import copy
import pickle
import re
import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import EMAHook
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from tiny import classifier, detector
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

import mmsnn
from mmsnn.inference.choice import TRIALS
from mmsnn.inference.lazy import Lazy
from mmsnn.layers import DirectEncoder, Readout
from mmsnn.models import SEWResNet, SpikeFPN, SpikeFPNHead, SpikeRetinaHead, Spikify
from mmsnn.neurons import ILIF, LIF, Neuron, expand_levels
from mmsnn.ops import event_reference

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def plain_tensors(out):
    """The tensors of an output, none of them lazy."""
    found = [out] if isinstance(out, torch.Tensor) else [t for each in out for t in plain_tensors(each)]
    assert not any(isinstance(t, Lazy) for t in found)
    return found


def watched(model, x):
    """Outputs of ``model``; by call of a neuron, in their order, its spikes and how near it came to its threshold."""
    calls = []

    def keep(neuron, args, kwargs, out):
        given = {**dict(zip(('x', 'v_init', 'return_v', 'norm'), args)), **kwargs}
        spikes = out.clone() if not isinstance(out, Lazy) else out.numbers().clone()
        norm = given.get('norm')
        with torch.no_grad():
            h = neuron.potentials(given['x'], spikes, norm=norm) / neuron.settings.v_threshold
        levels = torch.arange(neuron.settings.levels) + (0.5 if neuron.settings.rounds else 1.0)
        calls.append((spikes, (h.unsqueeze(-1) - levels).abs().amin(-1)))

    neurons = [m for m in model.modules() if isinstance(m, Neuron)]
    handles = [m.register_forward_hook(keep, with_kwargs=True) for m in neurons]
    with torch.no_grad():
        out = model(x)
    for handle in handles:
        handle.remove()
    return out, calls


def check_same(dense, events, x, margin=1e-4):
    """Assert that spikes are equal up to the first neurons that are within ``margin`` of their thresholds."""
    expected, calls = watched(dense, x)
    got, ours = watched(events, x)
    assert len(calls) == len(ours)
    for (spikes, near), (mine, _) in zip(calls, ours):
        differ = spikes != mine
        if differ.any():
            # a neuron's own later steps follow from its first difference
            first = differ.unflatten(0, (mmsnn.get_time_steps(events), -1)).float().cumsum(0) == 1
            assert near[differ & first.flatten(0, 1)].max() < margin
            assert differ.float().mean() < 1e-3
            return
    for a, b in zip(plain_tensors(expected), plain_tensors(got), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def both(model, **kwargs):
    """A network, and a copy on events."""
    model.eval()
    return model, mmsnn.event_driven(copy.deepcopy(model), **kwargs)


def small(**kwargs):
    """A SEW-ResNet-18 of an eighth of the width."""
    return SEWResNet(18, base_channels=8, **kwargs)


@pytest.mark.parametrize('engine', ['auto', 'event'])
def test_every_backbone(make_backbone, engine):
    dense, events = both(make_backbone(T=3, out_indices=(0, 1)), engine=engine)
    check_same(dense, events, IMAGES)
    report = mmsnn.event_report(events)
    assert any(counts.on_events for counts in report.values()) or engine == 'auto'
    if engine == 'event':
        assert all(counts.on_events for counts in report.values() if counts.density is not None)


@pytest.mark.parametrize('kind', ['SpikingResNet', 'SEWResNet', 'MSResNet'])
def test_all_but_the_stem_run_on_events(kind, lively):
    _, events = both(lively(mmsnn.registry.MODELS.get(kind)(18, base_channels=8, T=3)), engine='event')
    with torch.no_grad():
        events(IMAGES)
    how = {name: counts.how for name, counts in mmsnn.event_report(events).items()}
    assert how.keys() == {name for name, m in events.named_modules() if isinstance(m, nn.Conv2d)}
    # MS-ResNet's shortcuts convolve potentials
    analog = {name for name in how if name == 'conv1' or (kind == 'MSResNet' and 'downsample' in name)}
    assert {name for name, each in how.items() if each == 'dense'} == analog


def test_every_neuron(neuron_type, lively):
    check_same(*both(lively(small(neuron=dict(type=neuron_type.__name__), T=3)), engine='event'), IMAGES)


@pytest.mark.parametrize(
    'neuron',
    [
        dict(type='LIF', tau=1.5, v_reset=None),
        dict(type='LIF', v_reset=-0.3, decay_input=False, v_threshold=0.7),
        dict(type='IF', v_reset=0.2),
        dict(type='LIF', surrogate='triangle', fuse_norm=False),
        dict(type='ILIF', levels=1),
        dict(type='ILIF', levels=7),
    ],
    ids=str,
)
def test_settings_of_neurons(neuron, lively):
    check_same(*both(lively(small(neuron=neuron, T=3)), engine='event'), IMAGES)


@pytest.mark.parametrize('kind', ['SpikingResNet', 'SEWResNet', 'MSResNet'])
@pytest.mark.parametrize(
    'settings',
    [
        dict(depth=50),
        dict(depth=18, stem='cifar', shortcut='A'),
        dict(depth=18, deep_stem=True, avg_down=True),
        dict(depth=18, dilations=(1, 1, 2, 2), strides=(1, 2, 1, 1), packed_spikes=True),
        dict(depth=18, norm_cfg=dict(type='mmsnn.TEBN', T=3)),
        dict(depth=18, norm_cfg=dict(type='GN', num_groups=2)),
        dict(depth=18, encoder=dict(type='PoissonEncoder')),
    ],
    ids=str,
)
def test_settings_of_resnets(kind, settings, lively):
    if kind == 'MSResNet' and settings['depth'] == 50:
        settings = dict(depth=34)
    model = lively(mmsnn.registry.MODELS.get(kind)(base_channels=8, T=3, **settings))
    check_same(*both(model, engine='event'), IMAGES)


@pytest.mark.parametrize('connect', ['ADD', 'AND', 'IAND'])
def test_connections(connect, lively):
    check_same(*both(lively(small(connect=connect, T=3)), engine='event'), IMAGES)


def test_expanded_levels(lively):
    dense, events = both(expand_levels(lively(small(neuron=dict(type='ILIF', levels=2), T=2))))
    with torch.no_grad():
        for a, b in zip(dense(IMAGES), plain_tensors(events(IMAGES))):
            assert (a != b).float().mean() < 1e-3


def test_event_frames(lively):
    model = lively(small(in_channels=2, T=3), torch.randn(3, 3, 2, 32, 32))
    check_same(*both(model, engine='event'), torch.randint(2, (2, 3, 2, 32, 32)).float())


@pytest.mark.parametrize(
    'backbone',
    [
        dict(type='mmdet.ResNet', depth=18, base_channels=8, norm_eval=False),
        dict(type='mmpretrain.MobileNetV2', widen_factor=0.25),
        dict(type='mmpretrain.ShuffleNetV2', widen_factor=0.5),
        dict(type='mmpretrain.ResNeXt', depth=50, groups=4, width_per_group=2, base_channels=16, stem_channels=16),
        dict(type='mmpretrain.RepVGG', arch='A0'),
        dict(type='mmpretrain.ConvNeXt', arch='atto'),
    ],
    ids=lambda b: b['type'],
)
def test_spikified(backbone, lively):
    check_same(*both(lively(Spikify(backbone, T=2), bias=(0.5, 1.5)), engine='event'), IMAGES)


def pyramid():
    """A spiking backbone, neck and heads of detection and segmentation."""
    widths, rest = [8, 16, 32, 64], dict(T=2)
    anchors = ConfigDict(
        type='AnchorGenerator', strides=[4, 8, 16, 32], ratios=[1.0], octave_base_scale=4, scales_per_octave=1
    )

    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = small(readout='none', out_indices=(0, 1, 2, 3), **rest)
            self.neck = SpikeFPN(widths, 16, 4, **rest)
            with DefaultScope.overwrite_default_scope('mmdet'):
                self.detect = SpikeRetinaHead(
                    4, 16, feat_channels=16, stacked_convs=2, anchor_generator=anchors, **rest
                )
            self.segment = SpikeFPNHead(
                [4, 8, 16, 32], in_channels=[16] * 4, in_index=[0, 1, 2, 3], channels=8, num_classes=5, **rest
            )

        def forward(self, x):
            levels = self.neck(self.backbone(x))
            return [*self.detect(levels), [self.segment(levels)]]

    return Pyramid()


def test_necks_and_heads(lively):
    dense, events = both(lively(pyramid()), engine='event')
    check_same(dense, events, torch.randn(2, 3, 64, 64))
    report = mmsnn.event_report(events)
    names = [name for name, counts in report.items() if counts.how == 'event']
    for part in ('backbone.layer2', 'neck.fpn_convs', 'detect.cls_convs', 'detect.retina_reg', 'segment.scale_heads'):
        assert any(part in name for name in names), part


@pytest.mark.parametrize('make', [classifier, detector], ids=['classifier', 'detector'])
def test_task_models(make):
    cfg = make(True)
    with DefaultScope.overwrite_default_scope('mmdet' if make is detector else 'mmpretrain'):
        dense, events = both(ROOT_MODELS.build(cfg))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, got = dense.extract_feat(x), events.extract_feat(x)
        out = dense(x), events(x)
    for a, b in zip(plain_tensors(out[0]), plain_tensors(out[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


# It stays a network as any other ------------------------------------------------------------------------------------


@pytest.fixture
def pair(lively):
    """A network, and a copy of it on events."""
    return both(lively(small(T=3)), engine='event')


def test_enabled_and_not(pair):
    dense, events = pair
    assert mmsnn.event_driven(events, enabled=False) is events
    assert all(m.events is None for m in events.modules() if isinstance(m, Neuron)) and not events._forward_hooks
    with torch.no_grad():
        assert all(map(torch.equal, dense(IMAGES), events(IMAGES)))
    with pytest.raises(ValueError, match='event_driven'):
        mmsnn.event_report(events)


def test_training_is_as_ever(pair):
    dense, events = pair
    for model in pair:
        model.train()
    for a, b in zip(dense(IMAGES), events(IMAGES)):
        assert torch.equal(a, b) and b.requires_grad
    events.eval()
    assert events(IMAGES)[0].requires_grad


def test_state_dict_copies_and_pickles(pair):
    dense, events = pair
    assert dense.state_dict().keys() == events.state_dict().keys()
    for other in (copy.deepcopy(events), pickle.loads(pickle.dumps(events))):
        check_same(dense, other, IMAGES)
        engines = {id(m.events) for m in other.modules() if isinstance(m, Neuron)}
        assert len(engines) == 1 and engines != {id(events.neuron1.events)}
        assert mmsnn.event_report(other)


def change_by_load(model):
    model.load_state_dict({k: v * 1.3 if v.is_floating_point() else v for k, v in model.state_dict().items()})


def change_in_place(model):
    with torch.no_grad():
        model.layer1[0].conv2.weight[0, 0, 0, 0] += 20
        model.layer2[0].bn2.running_mean[3] -= 2


def change_data(model):
    for p in model.parameters():
        p.data.mul_(1.3)


def change_a_parameter(model):
    model.layer2[1].conv1.weight = nn.Parameter(-model.layer2[1].conv1.weight.detach())


def change_statistics(model):
    model.train()
    with torch.no_grad():
        model(IMAGES * 3)
    model.eval()


def change_by_ema(model):
    average = copy.deepcopy(model)
    for p in average.parameters():
        p.data.mul_(1.3)
    hook = EMAHook()
    hook.src_model = model
    hook.ema_model = type('Averaged', (), dict(module=average, update_buffers=True))()
    hook._swap_ema_parameters()


@pytest.mark.parametrize(
    'change', [change_by_load, change_in_place, change_data, change_a_parameter, change_statistics, change_by_ema]
)
def test_changed_weights_are_noticed(pair, change):
    dense, events = pair
    with torch.no_grad():
        before = events(IMAGES)
    for model in pair:
        torch.manual_seed(0)
        change(model)
    check_same(dense, events, IMAGES)
    with torch.no_grad():
        assert not all(map(torch.equal, before, events(IMAGES)))


def test_other_time_steps(pair):
    for T in (1, 5, 3):
        for model in pair:
            mmsnn.set_time_steps(model, T)
        check_same(*pair, IMAGES)


def test_recording(pair):
    dense, events = pair
    names = ['layer1.1.neuron1', 'layer2.0.neuron2']
    found = []
    for model in pair:
        with torch.no_grad(), mmsnn.record(model, *names, what=('spikes', 'v', 'rate')) as recorded:
            model(IMAGES)
        found.append(recorded)
    for name in names:
        for what, value in found[0][name].items():
            other = found[1][name][what]
            assert type(other) is torch.Tensor
            torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-4)


def test_threads(pair):
    dense, events = pair
    images = [IMAGES * (1 + i / 4) for i in range(4)]
    found = [None] * 4

    def run(i):
        with torch.no_grad():
            found[i] = events(images[i])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.no_grad():
        for x, out in zip(images, found):
            for a, b in zip(events(x), out):
                assert torch.equal(a, b)


def test_more_threads_give_equal_bits(pair):
    _, events = pair
    with torch.no_grad():
        expected = events(IMAGES)
        torch.set_num_threads(2)
        try:
            got = events(IMAGES)
        finally:
            torch.set_num_threads(1)
    assert all(map(torch.equal, expected, got))


def test_elsewhere_it_is_dense(pair):
    """Under autocast, in float64 and in functional transforms the network runs as it always does."""
    dense, events = pair
    for run in (
        lambda m: m(IMAGES),
        lambda m: copy.deepcopy(m).double()(IMAGES.double()),
        lambda m: torch.func.functional_call(m, dict(m.named_parameters()), (IMAGES,)),
    ):
        with torch.no_grad(), torch.autocast('cpu', torch.bfloat16, enabled=False):
            for a, b in zip(run(dense), run(events)):
                assert a.dtype == b.dtype
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        assert all(map(torch.equal, dense(IMAGES), events(IMAGES)))


@pytest.mark.kernels
def test_compiled_graphs_are_dense_and_say_so(pair, monkeypatch):
    said = []
    monkeypatch.setattr('mmsnn.inference.engine.print_log', lambda line, **_: said.append(line))
    compiled = torch.compile(pair[1], backend='eager')
    with torch.no_grad():
        for a, b in zip(pair[0](IMAGES), compiled(IMAGES)):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert any('torch.compile' in line for line in said)


class Function(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def around(layer):
    """A network that gives ``layer`` currents that are only noted."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
    return nn.Sequential(DirectEncoder(2), first, LIF(2, v_threshold=0.3), second, layer, Readout(2)).eval()


def spiking_part():
    """A convolution, a neuron and pooling, which a compiler is given as a whole."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 8, 3), LIF(2, v_threshold=0.05), nn.MaxPool2d(2))


@pytest.mark.kernels
@pytest.mark.parametrize('engine', ['event', 'auto'])
@pytest.mark.parametrize('backend, as_module', [('eager', True), ('aot_eager', True), ('aot_eager', False)])
def test_compiled_parts(engine, backend, as_module):
    """Nothing that is only noted gets lost in the graph of a part, in no call."""
    functions = [
        lambda x: x * 3 / 2 - 1,
        lambda x: (x * 2).add_(1),
        lambda x: torch.conv2d(x, torch.ones(8, 8, 1, 1)).tanh(),
        spiking_part(),
    ]
    for function in functions:
        torch.compiler.reset()
        if as_module:
            layer = torch.compile(Function(function), backend=backend)
        else:
            layer = Function(torch.compile(function, backend=backend))
        events = mmsnn.event_driven(around(layer), engine=engine)
        with torch.no_grad():
            expected = around(Function(function))(IMAGES)
            assert expected.any()
            for _ in range(4):
                torch.testing.assert_close(events(IMAGES), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.kernels
def test_a_compiled_part_in_one_graph_is_refused():
    """What is only noted can be in no graph, as `event_driven` documents."""
    torch.compiler.reset()
    part = torch.compile(Function(lambda x: x * 2 + 1), backend='eager', fullgraph=True)
    with torch.no_grad(), pytest.raises(Exception, match='Lazy'):
        mmsnn.event_driven(around(part), engine='event')(IMAGES)


@pytest.mark.parametrize('engine', ['event', 'auto'])
@pytest.mark.parametrize('calls', [0, 3])
def test_traces_are_dense(engine, calls, tmp_path):
    """Whatever ran before, a trace holds for any batch, and ONNX none of the engine's ops."""
    dense = around(nn.Tanh())
    events = mmsnn.event_driven(copy.deepcopy(dense), engine=engine)
    with torch.no_grad():
        for _ in range(calls):
            events(IMAGES)
        traced = torch.jit.trace(events, IMAGES)
        for x in (IMAGES, IMAGES[:1], torch.cat([IMAGES, -IMAGES])):
            torch.testing.assert_close(traced(x), dense(x))
        torch.onnx.export(events, (IMAGES,), tmp_path / 'net.onnx', dynamo=False)
        # and it goes on on events
        torch.testing.assert_close(events(IMAGES), dense(IMAGES), rtol=1e-4, atol=1e-5)
    assert (tmp_path / 'net.onnx').stat().st_size and (calls == 0 or mmsnn.event_report(events))


def test_sixteen_bit_weights_are_close(lively):
    dense, events = both(lively(small(T=3)), engine='event', weights='bfloat16')
    with torch.no_grad():
        first, ours = dense(IMAGES)[0], events(IMAGES)[0]
    # further on, random networks magnify what differs
    assert 0 < (first - ours).abs().mean() < 0.1 * first.mean()
    model = small(T=3)
    exact = model.layer2[0].conv1.weight
    laid = torch.ops.mmsnn.event_rows(exact, 1, True)
    rounded = event_reference.weights(laid, len(exact), exact.shape[2:], 1)
    assert laid.dtype == torch.int32 and ((rounded - exact).abs() <= exact.abs() * 2**-8).all()


def test_dense_maps_stay_dense(lively):
    """A layer whose input hardly has a zero runs densely, and the report says so."""
    model = lively(small(T=3, neuron=dict(type='LIF', v_threshold=0.05)), bias=(2.0, 4.0))
    dense, events = both(model)
    check_same(dense, events, IMAGES)
    report = mmsnn.event_report(events)
    assert report.density > 0.5 and all(c.how == 'dense' for n, c in report.items() if c.density and c.density > 0.4)
    assert 'dense' in {counts.how for counts in report.values()}
    assert not mmsnn.event_report(events)
    assert report.table().row_count == len(report)


def test_nothing_to_run():
    with pytest.raises(ValueError, match='no spiking neuron'):
        mmsnn.event_driven(nn.Conv2d(3, 3, 3))
    for wrong in (dict(engine='sparse'), dict(weights='int8')):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            mmsnn.event_driven(small(), **wrong)


def test_outputs_read_out_to_plain_tensors(lively):
    model = mmsnn.event_driven(lively(small(T=3, readout='none')).eval())
    with torch.no_grad():
        out = model(IMAGES)[0]
    assert type(out) is torch.Tensor and out.shape[0] == 6
    assert Readout(3)(out).shape[0] == 2


def chain(channels=64):
    """Two convolutions and neurons; the second convolution runs on events."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
    neurons = [mmsnn.neurons.LIF(2, v_threshold=threshold) for threshold in (0.2, 0.05)]
    return nn.Sequential(first, neurons[0], second, neurons[1]).eval()


CHAIN_IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(5))


class Then(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.body, self.function = chain(), function

    def forward(self, x):
        return self.function(self.body(x))


class TestWhatUsersDo:
    @pytest.mark.parametrize('engine', ['event', 'auto'])
    def test_packed_convolution_before_the_first_neuron(self, engine):
        """Such a convolution has a switch called events, which is no engine."""
        torch.manual_seed(0)
        neck = SpikeFPN(in_channels=[8, 8], out_channels=8, num_outs=2, T=2, packed_spikes=True).eval()
        xs = torch.rand(4, 8, 16, 16).round(), torch.rand(4, 8, 8, 8).round()
        with torch.no_grad():
            expected = neck(xs)
            mmsnn.event_driven(neck, engine=engine)
            for x, y in zip(expected, neck(xs), strict=True):
                torch.testing.assert_close(x, y)
        assert mmsnn.event_report(neck)

    @pytest.mark.parametrize('inner', [dict(engine='auto'), dict(engine='event'), dict(enabled=False)])
    @pytest.mark.parametrize('outer', [dict(engine='auto'), dict(engine='event'), dict(enabled=False)])
    @pytest.mark.parametrize('inner_first', [False, True])
    def test_parts_and_wholes(self, inner, outer, inner_first):
        """The last call counts for what it covers, and nothing of an earlier one is left in its way."""
        model = nn.Sequential(chain(), nn.Conv2d(64, 5, 1)).eval()
        with torch.no_grad():
            expected = model(CHAIN_IMAGES)
            for part, how in [(model[0], inner), (model, outer)][:: 1 if inner_first else -1]:
                mmsnn.event_driven(part, **how)
            for _ in range(3):
                torch.testing.assert_close(plain_tensors(model(CHAIN_IMAGES))[0], expected)
            mmsnn.event_driven(model, enabled=False)
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

    def test_exchanged_parts(self):
        model = mmsnn.event_driven(chain())
        model[1], model[3] = nn.ReLU(), nn.ReLU()
        with torch.no_grad():
            assert model(CHAIN_IMAGES).isfinite().all()

    @pytest.mark.parametrize('engine', ['event', 'auto'])
    @pytest.mark.parametrize('norm', [False, True])
    def test_a_frozen_part_before_one_that_learns(self, engine, norm):
        """Linear probing: gradients of the head, also of two steps, as densely; under autocast its type."""
        body, head = chain(), nn.Sequential(nn.Conv2d(64, 64, 3), *[nn.BatchNorm2d(64)] * norm).eval()
        whole = copy.deepcopy(nn.Sequential(body))
        mmsnn.event_driven(whole, engine=engine)
        for m, into in ((body, expected := []), (whole[0], found := [])):
            head.zero_grad()
            with torch.no_grad():
                features = m(CHAIN_IMAGES)
            for _ in range(2):
                out = head(features)
                assert out.requires_grad
                out.square().mean().backward()
            into += [p.grad.clone() for p in head.parameters()]
            with torch.autocast('cpu', torch.bfloat16):
                assert head[0](features).dtype == torch.bfloat16
        for x, y in zip(expected, found, strict=True):
            torch.testing.assert_close(x, y)

    @pytest.mark.parametrize(
        'function',
        [
            lambda y: y[[True, False, True, False]],
            lambda y: y[np.arange(4) % 2 == 0],
            lambda y: y[[2, 0]],
            lambda y: y[True],
            lambda y: y[np.int64(1)],
            lambda y: y[..., None, 1:, ::2],
            lambda y: F.max_pool2d(y, (2,)),
            lambda y: nn.MaxPool2d(np.int64(2))(y),
            lambda y: F.max_pool2d(y[..., :2, :], (2, 1), 1, (1, 0), (3, 1)),
            lambda y: F.max_pool2d(y[..., :3], (1, 2), 1, (0, 1), (1, 3)),
            lambda y: F.max_pool2d(y, 3, 2, 1, 2),
            lambda y: F.conv2d(y, torch.ones(8, 64, 3, 3), padding=np.int64(1)),
            lambda y: F.conv2d(y, torch.ones(8, 64, 3, 3), padding=[1]),
            lambda y: y[0, 0, 0, 0].sum(0),
            lambda y: y[0, 0, 0, 0].mean(0),
        ],
    )
    def test_indices_and_sizes(self, function):
        model = Then(function).eval()
        with torch.no_grad():
            expected = model(CHAIN_IMAGES)
            found = mmsnn.event_driven(model, engine='event')(CHAIN_IMAGES)
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize(
        'function',
        [
            lambda y: F.max_pool2d(y, 100),
            lambda y: F.max_pool2d(y, 2, 0),
            lambda y: F.max_pool2d(y, 2, padding=2),
            lambda y: F.max_pool2d(y, 2, dilation=0),
            lambda y: F.conv2d(y, torch.ones(8, 64, 3, 3), stride=0),
            lambda y: F.conv2d(y, torch.ones(8, 64, 3, 3), padding=-1),
            lambda y: F.conv2d(y, torch.ones(8, 64, 3, 3), dilation=0),
            lambda y: F.conv2d(y, torch.ones(8, 64, 3, 3), torch.ones(1)),
            lambda y: F.conv2d(y, torch.ones(8, 64, 3, 3), torch.ones(8, dtype=torch.float64)),
            lambda y: F.conv2d(y, torch.ones(9, 32, 3, 3), groups=2),
            lambda y: nn.BatchNorm2d(1).eval()(F.conv2d(y, torch.ones(8, 64, 3, 3))),
            lambda y: F.batch_norm(F.conv2d(y, torch.ones(8, 64, 3, 3)), torch.ones(8), torch.ones(8), torch.ones(1)),
            lambda y: LIF(T=2)(nn.BatchNorm2d(1).eval()(F.conv2d(y, torch.ones(8, 64, 3, 3)))),
        ],
    )
    def test_what_pytorch_refuses(self, function):
        """The same error as in the dense network."""
        model = Then(function).eval()
        with torch.no_grad():
            with pytest.raises((RuntimeError, ValueError)) as expected:
                model(CHAIN_IMAGES)
            with pytest.raises(expected.type, match=re.escape(str(expected.value).splitlines()[0][:60])):
                mmsnn.event_driven(model, engine='event')(CHAIN_IMAGES)

    @pytest.mark.parametrize('change', ['float64', 'bfloat16', 'meta'])
    def test_defaults_of_the_process(self, change):
        """Types and devices are those of the network, whatever new tensors have elsewhere."""
        model = Then(lambda y: (y.mean(0), F.conv2d(y, torch.ones(8, 64, 3, 3, dtype=torch.float32, device='cpu'))))
        with torch.no_grad():
            expected = model.eval()(CHAIN_IMAGES)
            events = mmsnn.event_driven(model, engine='event')
            before = torch.get_default_dtype()
            try:
                if change == 'meta':
                    torch.set_default_device('meta')
                else:
                    torch.set_default_dtype(getattr(torch, change))
                found = events(CHAIN_IMAGES)
            finally:
                torch.set_default_dtype(before)
                torch.set_default_device(None)
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize('number', [float('inf'), float('nan')])
    @pytest.mark.parametrize('engine', ['event', 'auto'])
    def test_weights_that_are_not_finite(self, number, engine):
        """A product with a zero is NaN, so such a layer runs densely, and its spikes are the dense network's."""
        dense = chain()
        next(m for m in list(dense.modules())[::-1] if isinstance(m, nn.Conv2d)).weight.data[0, 0, 0, 0] = number
        events = mmsnn.event_driven(copy.deepcopy(dense), engine=engine)
        with torch.no_grad():
            torch.testing.assert_close(events(CHAIN_IMAGES), dense(CHAIN_IMAGES), equal_nan=True)

    @pytest.mark.parametrize('engine', ['event', 'auto'])
    @pytest.mark.parametrize('where', ['image', 'first bias', 'last bias', 'addend', 'plain current'])
    def test_neurons_of_several_levels_pass_nan_on(self, engine, where):
        """As densely, where bytes could not hold it."""
        added = torch.zeros(4, 64, 8, 8)

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second, self.third = chain()[:3], ILIF(2), ILIF(2)

            def forward(self, x):
                y = self.first(x)
                y = self.second(y + added)
                return self.third(y.sigmoid() + added if where == 'plain current' else y)

        dense, x = Net().eval(), CHAIN_IMAGES.clone()
        places = {'image': x, 'first bias': dense.first[0].bias, 'last bias': dense.first[2].bias}
        places.get(where, added).data.view(-1)[0] = float('nan')
        if where == 'image':
            dense.first[1] = ILIF(2)
        events = mmsnn.event_driven(copy.deepcopy(dense), engine=engine)
        with torch.no_grad():
            expected = dense(x)
            assert (expected.isnan().any() or where == 'first bias') and expected.nan_to_num().any()
            torch.testing.assert_close(events(x), expected, equal_nan=True)

    @pytest.mark.parametrize(
        'kind', [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm, 'pruned']
    )
    def test_computed_weights_are_reported(self, kind):
        model = chain()
        for conv in [m for m in model.modules() if isinstance(m, nn.Conv2d)]:
            prune.random_unstructured(conv, 'weight', 0.1) if kind == 'pruned' else kind(conv)
        with torch.no_grad():
            mmsnn.event_driven(model.eval(), engine='event')(CHAIN_IMAGES)
        report = mmsnn.event_report(model)
        assert report['computed weights'].on_events and report.density > 0
        assert not mmsnn.event_report(model)

    def test_outputs_in_containers(self):
        """Plain tensors come out, also in a dataclass, a subclass of dict or list, or kept from the call before."""

        @dataclass(frozen=True)
        class Out:
            map: torch.Tensor
            more: collections.UserDict

        class Maps(list):
            pass

        kept = []

        def function(y):
            kept.append(y)
            return Out(y, collections.UserDict(a=y)), Maps([y, Maps([y])]), kept[0]

        for engine in ('event', 'auto'):
            kept.clear()
            model = mmsnn.event_driven(Then(function).eval(), engine=engine)
            with torch.no_grad():
                for _ in range(9):
                    out, maps, before = model(CHAIN_IMAGES)
                    found = out.map, out.more['a'], maps[0], maps[1][0], before
                    assert [type(x) for x in found] == [torch.Tensor] * 5

    def test_the_report_tells_sizes_apart(self):
        model = mmsnn.event_driven(chain())
        with torch.no_grad():
            for _ in TRIALS:
                model(CHAIN_IMAGES)
        said = mmsnn.event_report(model).table().caption
        assert f'inputs like {list(CHAIN_IMAGES.shape)} with T=' in said

    @pytest.mark.parametrize('last', [True, False])
    @pytest.mark.parametrize(
        'function',
        [
            lambda y: y.roll(1, 3),
            lambda y: F.max_pool2d(y, y.shape[2:]),
            lambda y: F.interpolate(F.max_pool2d(y, y.shape[2:]), scale_factor=2),
            lambda y: F.conv2d(F.max_pool2d(y, y.shape[2:]), torch.ones(8, 64, 1, 1)),
            lambda y: y[:, :1],
            lambda y: y.contiguous().float(memory_format=torch.channels_last),
            lambda y: F.conv2d(y, torch.ones(1, 64, 3, 3)),
        ],
    )
    def test_aliases_are_those_of_the_dense_network(self, function, last):
        """Whether a copy is made follows from strides, and is seen by who writes to the original."""

        def then(y):
            y = function(y)
            z = y.contiguous(memory_format=torch.channels_last)
            y.zero_()
            return z, torch.tensor(y.stride())

        model = Then(then).eval()
        x = CHAIN_IMAGES.to(memory_format=torch.channels_last) if last else CHAIN_IMAGES
        model = model.to(memory_format=torch.channels_last) if last else model
        with torch.no_grad():
            expected = model(x)
            torch.testing.assert_close(mmsnn.event_driven(model, engine='event')(x), expected)

    @pytest.mark.parametrize('engine', ['event', 'auto'])
    def test_jit_trace(self, engine):
        model = chain()
        with torch.no_grad():
            expected = model(CHAIN_IMAGES)
            traced = torch.jit.trace(mmsnn.event_driven(model, engine=engine), CHAIN_IMAGES, check_trace=False)
            torch.testing.assert_close(traced(CHAIN_IMAGES), expected)

    @pytest.mark.parametrize('edit', ['filter', 'scaled filter', 'input channel', 'pruned', 'norm'])
    def test_edits_through_data(self, edit):
        """Neither a version counter nor an address tells of them."""
        dense = chain()
        dense.insert(3, nn.BatchNorm2d(64).eval())
        events = mmsnn.event_driven(copy.deepcopy(dense), engine='event')
        with torch.no_grad():
            events(CHAIN_IMAGES)
            for m in (dense, events):
                weight = m[2].weight.data
                if edit == 'filter':
                    weight[3] = 0
                elif edit == 'scaled filter':
                    weight[63] *= -3
                elif edit == 'input channel':
                    weight[:, 5] = 0
                elif edit == 'pruned':
                    weight[torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.05] = 0
                else:
                    m[3].weight.data[7] = -2
            expected = dense(CHAIN_IMAGES)
            assert (events(CHAIN_IMAGES) != expected).float().mean() < 1e-4
