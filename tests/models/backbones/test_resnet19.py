"""ResNet-19, spiking and as an ANN, and its head of two layers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import noise_batch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from plain_loop import PlainLoop

from mmsnn import get_time_steps, set_time_steps
from mmsnn.distill import Distiller, transfer_weights
from mmsnn.models import ResNet19, Spikify, SpikingResNet19, SpikingStackedLinearClsHead


def small(T=2, **kwargs):
    return SpikingResNet19(T=T, **{'base_channels': 8, **kwargs})


def config(spiking, T=4, base_channels=8, classes=10, hidden=16, **backbone):
    """A classifier as in the configs."""
    kind = dict(type='mmsnn.SpikingResNet19', T=T, readout='none') if spiking else dict(type='mmsnn.ResNet19')
    head = dict(type='mmsnn.SpikingStackedLinearClsHead', T=T) if spiking else dict(type='StackedLinearClsHead')
    return dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(base_channels=base_channels, **kind, **backbone),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(in_channels=4 * base_channels, mid_channels=[hidden], num_classes=classes, **head),
        data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor', mean=[127.5] * 3, std=[64.0] * 3),
    )


def classifier(spiking, **settings):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return ROOT_MODELS.build(config(spiking, **settings))


class TestSize:
    @pytest.mark.parametrize('spiking', [True, False])
    def test_parameters(self, spiking):
        """12.63 M for ten classes, as Spikformer's table quotes it; 12.70 M with the wider stem of the paper."""
        shape = dict(base_channels=128, hidden=256)
        for settings, millions in ((dict(), 12.63), (dict(stem_channels=128), 12.70)):
            model = classifier(spiking, **shape, **settings)
            assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions

    def test_layers(self):
        """A stem, three stages of 3, 3 and 2 blocks of two convolutions, and two linear layers: 19."""
        model = classifier(True, base_channels=128, hidden=256)
        convs = [m for n, m in model.named_modules() if type(m).__name__ == 'Conv2d' and 'downsample' not in n]
        assert [m.out_channels for m in convs] == [64] + [128] * 6 + [256] * 6 + [512] * 4
        assert [layer.fc.out_features for layer in model.head.layers] == [256, 10]
        assert len(convs) + len(model.head.layers) == 19


class TestMaps:
    def test_shapes(self):
        model = small().eval()
        for x in (torch.randn(3, 3, 32, 32), torch.randn(3, 2, 3, 32, 32)):
            assert [tuple(o.shape) for o in model(x)] == [(3, 8, 32, 32), (3, 16, 16, 16), (3, 32, 8, 8)]
        assert model.out_channels == (8, 16, 32)
        assert len(small(in_channels=2).eval()(torch.randn(3, 2, 2, 32, 32))) == 3

    def test_chosen_stages(self):
        model = small(out_indices=(2,)).eval()
        assert [o.shape[1] for o in model(torch.randn(3, 3, 32, 32))] == [32] == list(model.out_channels)
        for one, three in ((2, (2,)), (-1, (2,)), ((-1, 0), (0, 2))):
            assert small(out_indices=one).out_indices == three
        assert len(ResNet19(base_channels=8)(torch.randn(3, 3, 32, 32))) == 1

    @pytest.mark.parametrize(
        'settings, match',
        [
            (dict(depth=18), 'backbone.depth must be one of 19, got 18'),
            (dict(out_indices=(3,)), 'backbone.out_indices must name stages 0 to 2'),
            (dict(num_stages=4), 'backbone.num_stages=4: a ResNet-19 has 3 stages'),
            (dict(frozen_stages=4), 'backbone.frozen_stages must lie in -1 to 3, got 4'),
        ],
    )
    def test_errors(self, settings, match):
        with pytest.raises(ValueError, match=match):
            small(**settings)


class TestTwin:
    def test_equals_the_ann_with_neurons_for_its_activations(self, lively):
        ours = lively(small()).eval()
        ann = dict(type='mmsnn.ResNet19', base_channels=8, out_indices=(0, 1, 2))
        twin = Spikify(ann, T=2, neuron=dict(type='LIF')).eval()
        twin.load_state_dict(ours.state_dict())
        frames = torch.randn(3, 2, 3, 32, 32)
        for a, b in zip(ours(frames), twin(frames)):
            assert a.std() > 0.1 and torch.equal(a, b)

    def test_level_1_copies_everything(self):
        ann, snn = classifier(False), classifier(True)
        for parameter in ann.parameters():
            torch.nn.init.normal_(parameter)
        report = transfer_weights(ann, snn, verbose=False)
        assert not report.missing and not report.mismatched and not report.unused
        assert torch.equal(ann.head.layers[0].fc.weight, snn.head.layers[0].fc.weight)
        assert torch.equal(ann.backbone.layer3[1].conv2.weight, snn.backbone.layer3[1].conv2.weight)


def step(net, x):
    """One time step of the whole classifier."""
    x = net.spike(net.norm(net.conv(x, 'backbone.conv1'), 'backbone.bn1'), 'stem')
    for i, blocks in enumerate((3, 3, 2), start=1):
        for j in range(blocks):
            name, stride = f'backbone.layer{i}.{j}', 2 if i > 1 and j == 0 else 1
            shortcut = x
            if net.has(f'{name}.downsample'):
                shortcut = net.norm(net.conv(x, f'{name}.downsample.0', stride), f'{name}.downsample.1')
            y = net.spike(net.norm(net.conv(x, f'{name}.conv1', stride), f'{name}.bn1'), f'{name}.1')
            x = net.spike(net.norm(net.conv(y, f'{name}.conv2'), f'{name}.bn2') + shortcut, f'{name}.2')
    hidden = net.spike(net.linear(x.mean((2, 3)), 'head.layers.0.fc'), 'head')
    return hidden, net.linear(hidden, 'head.layers.1.fc')


class TestHead:
    def test_classifier_equals_a_loop_over_time(self, lively):
        frames = torch.randn(3, 4, 3, 32, 32)
        model = classifier(True)
        lively(model.backbone)
        torch.nn.init.uniform_(model.head.layers[0].fc.weight, 0, 0.3)
        model.double().eval()
        with torch.no_grad():
            rates, expected = PlainLoop(model).over(frames, step)
            got = model(frames.double())
        assert 0 < rates.mean() < 1 and rates.std() > 0.1
        assert got.shape == (3, 10)
        torch.testing.assert_close(got, expected)

    def test_trains_and_predicts(self):
        model = classifier(True)
        batch = noise_batch(model, 3, 32)
        wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.1)))
        wrapper.zero_grad = lambda: None
        before = copy.deepcopy(model.head.state_dict())
        losses = model.train().train_step(batch, wrapper)
        assert losses['loss'].isfinite() and model.head.layers[0].fc.weight.grad.any()
        assert not torch.equal(model.head.state_dict()['layers.0.fc.weight'], before['layers.0.fc.weight'])
        scores = torch.stack([sample.pred_score for sample in model.eval().test_step(batch)])
        images = model.data_preprocessor(batch)['inputs']
        torch.testing.assert_close(scores, F.softmax(model(images), 1))

    def test_first_steps_teach_themselves(self):
        """TSSD, which asks the head for every image twice: after the first steps, and after all."""
        connector = [None, dict(type='mmsnn.WeakHead')]
        response = dict(type='LogitKL', tau=2.0)
        student_taps = ['head.layers.1.fc', 'backbone.layer2']
        term = dict(type='TemporalSpatialSelf', response=response, student=student_taps, connector=connector)
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            distiller = Distiller(student=config(True), losses=dict(loss_self=term), short_T=2)
        student = distiller.student
        data = student.data_preprocessor(noise_batch(student, 3, 32), True)
        losses = distiller.train().loss(**data)
        assert all(value.isfinite().all() for value in losses.values()) and 'loss_self' in losses
        sum(losses.values()).backward()
        assert student.backbone.conv1.weight.grad.any() and student.head.layers[0].fc.weight.grad.any()

    def test_time_steps_may_change(self):
        model = set_time_steps(classifier(True).eval(), 3)
        assert get_time_steps(model) == 3 and model(torch.randn(2, 3, 32, 32)).shape == (2, 10)

    def test_neuron(self):
        settings = dict(num_classes=3, in_channels=4, mid_channels=[5, 6])
        head = SpikingStackedLinearClsHead(T=2, neuron=dict(type='PLIF', init_tau=1.7), **settings)
        acts = [layer.act for layer in head.layers]
        assert acts[2] is None and all(act.T == 2 and abs(act.tau - 1.7) < 1e-6 for act in acts[:2])
        head((torch.randn(6, 4) + 2,)).sum().backward()
        assert all(act.w.grad is not None for act in acts[:2])

    def test_errors(self):
        settings = dict(num_classes=3, in_channels=4, mid_channels=[5])
        with pytest.raises(TypeError, match='head.act_cfg: set head.neuron instead'):
            SpikingStackedLinearClsHead(act_cfg=dict(type='ReLU'), **settings)
        head = SpikingStackedLinearClsHead(T=2, **settings)
        samples = [DataSample().set_gt_label(0) for _ in range(4)]
        for ask in (head.loss, head.predict):
            with pytest.raises(ValueError, match="4 features for 4 images in T=2 steps: set backbone.readout='none'"):
                ask((torch.randn(4, 4),), samples)
            ask((torch.randn(8, 4),), samples)
        assert len(head.predict((torch.randn(8, 4),))) == 4
