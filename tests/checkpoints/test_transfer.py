"""Level 1: the ANN's weights in the SNN of the same architecture."""

import mmdet.models
import mmpretrain.models  # noqa: F401  registers
import pytest
import torch
import torchvision
from mmengine.registry import MODELS
from tiny import classifier, detector
from torch import nn

from mmsnn.distill import TransferReport, transfer_weights
from mmsnn.models import SEWResNet, SpikingResNet


@pytest.fixture(scope='module')
def resnet18():
    model = torchvision.models.resnet18(weights=None)
    for buffer in model.buffers():
        if buffer.dtype.is_floating_point:
            buffer.data.uniform_(0.5, 1.5)
        else:
            buffer.fill_(7)
    return model


def equal(model, name, source, key=None):
    return torch.equal(model.state_dict()[name], source.state_dict()[key or name])


class TestBackbone:
    def test_torchvision(self, resnet18):
        """Convolutions, norms with their statistics; nothing rescaled."""
        model = SEWResNet(18, T=2)
        report = transfer_weights(resnet18.state_dict(), model)
        assert set(report.matched) == set(model.state_dict())
        assert all(equal(model, name, resnet18) for name in model.state_dict())
        assert report.missing == [] and report.mismatched == {} and report.unused == ['fc.weight', 'fc.bias']
        # a copy: training the student leaves the ANN alone
        with torch.no_grad():
            model.conv1.weight.add_(1)
        assert not equal(model, 'conv1.weight', resnet18)

    def test_sources(self, resnet18, tmp_path):
        """A model, a state dict, a checkpoint's content, a file."""
        file = tmp_path / 'ann.pth'
        torch.save(dict(state_dict=resnet18.state_dict(), meta=dict(epoch=3)), file)
        for source in (resnet18, dict(model=resnet18.state_dict()), str(file), file):
            model = SpikingResNet(18, T=2)
            transfer_weights(source, model, verbose=False)
            assert equal(model, 'layer4.1.bn2.running_var', resnet18)

    @pytest.mark.parametrize('prefix', ['module.', 'backbone.', 'module.backbone.'])
    def test_prefixes(self, resnet18, prefix):
        model = SEWResNet(18, T=2)
        transfer_weights({prefix + k: v for k, v in resnet18.state_dict().items()}, model)
        assert equal(model, 'layer1.0.conv1.weight', resnet18)

    def test_neurons_keep_what_they_learned(self):
        ann = mmdet.models.ResNet(18, base_channels=8)
        model = SEWResNet(18, T=2, base_channels=8, neuron=dict(type='PLIF', init_tau=1.7))
        # even if the source has such a key
        state = {**ann.state_dict(), 'neuron1.w': torch.tensor(5.0)}
        report = transfer_weights(state, model)
        assert not any(name.endswith('.w') for name in (*report.matched, *report.missing))
        assert 'neuron1.w' in report.unused
        assert model.neuron1.tau.item() == pytest.approx(1.7)

    def test_spikified(self):
        ann = mmdet.models.ResNet(18, base_channels=8)
        for neuron in ('LIF', 'PLIF'):
            model = MODELS.build(
                dict(
                    type='mmsnn.Spikify',
                    T=2,
                    neuron=dict(type=neuron),
                    backbone=dict(type='mmdet.ResNet', depth=18, base_channels=8),
                )
            )
            report = transfer_weights(ann, model)
            assert set(report.matched) == set(ann.state_dict()) and not report.missing
            assert all(equal(model, name, ann) for name in ann.state_dict())


class TestTaskModel:
    def test_torchvision_into_mmpretrain(self, resnet18):
        """The classifier is called ``fc`` there and ``head.fc`` here."""
        cfg = classifier(True, head=dict(num_classes=1000, in_channels=512), base_channels=64)
        model = MODELS.build(cfg)
        report = transfer_weights(resnet18.state_dict(), model)
        assert report.missing == [] and report.unused == [] and report.mismatched == {}
        assert equal(model, 'head.fc.weight', resnet18, 'fc.weight') and equal(
            model, 'head.fc.bias', resnet18, 'fc.bias'
        )
        assert equal(
            model, 'backbone.layer3.0.downsample.1.running_mean', resnet18, 'layer3.0.downsample.1.running_mean'
        )

    def test_other_classes(self, resnet18):
        model = MODELS.build(classifier(True, head=dict(num_classes=10, in_channels=512), base_channels=64))
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(
            ValueError, match=r"only 0% of the tensors outside.*scope='backbone'(.|\n)*shape differs: head.fc.weight"
        ):
            transfer_weights(resnet18, model)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), 'copied before it refused'
        report = transfer_weights(resnet18, model, scope='backbone')
        assert equal(model, 'backbone.conv1.weight', resnet18, 'conv1.weight')
        assert torch.equal(model.head.fc.weight, before['head.fc.weight'])
        assert all(name.startswith('backbone.') for name in report.matched)

    def test_min_match(self, resnet18):
        model = MODELS.build(classifier(True, head=dict(num_classes=10, in_channels=512), base_channels=64))
        report = transfer_weights(resnet18, model, min_match=0.0)
        assert report.mismatched == {'head.fc.weight': ((1000, 512), (10, 512)), 'head.fc.bias': ((1000,), (10,))}
        assert equal(model, 'backbone.conv1.weight', resnet18, 'conv1.weight')

    def test_detector(self):
        """Neck and head are copied too."""
        ann, model = MODELS.build(detector(False)), MODELS.build(detector(True))
        for parameter in ann.parameters():
            parameter.data.normal_()
        report = transfer_weights(ann, model)
        assert set(report.matched) == set(ann.state_dict()) == set(model.state_dict())
        assert all(equal(model, name, ann) for name in ann.state_dict())


class TestRefusals:
    @pytest.mark.parametrize(
        'settings, match',
        [
            (dict(depth=34), r"counterpart \(first: \['layer1.2.conv1.weight'"),
            (dict(depth=18, base_channels=32), '100 tensors of convolutions and norms.*depth, base_channels, stem'),
            (dict(depth=18, stem='cifar'), r'1 tensors of convolutions .*conv1.weight'),
        ],
    )
    def test_other_architecture(self, resnet18, settings, match):
        model = SEWResNet(T=2, **settings)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(ValueError, match=match):
            transfer_weights(resnet18, model)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), 'copied before it refused'

    @pytest.mark.parametrize(
        'source, model, remedy',
        [
            ('ResNetV1c', {}, 'set backbone.deep_stem=True in the student'),
            ('ResNetV1d', {}, 'set backbone.deep_stem=True and backbone.avg_down=True in the student'),
            ('ResNetV1d', dict(deep_stem=True), 'set backbone.avg_down=True in the student'),
            ('ResNet', dict(deep_stem=True, avg_down=True), 'backbone.deep_stem=False and backbone.avg_down=False in'),
        ],
    )
    def test_keys_of_another_stem_are_named(self, source, model, remedy):
        source = MODELS.build(dict(type=f'mmseg.{source}', depth=18, base_channels=8, stem_channels=8))
        with pytest.raises(ValueError, match=remedy):
            transfer_weights(source, SEWResNet(18, T=2, base_channels=8, **model))
        # what it says is the remedy
        settings = dict(deep_stem=source.deep_stem, avg_down=source.avg_down)
        assert transfer_weights(source, SEWResNet(18, T=2, base_channels=8, **settings)).matched

    def test_one_norm_is_enough(self, resnet18):
        """Every convolution and norm of the backbone must match; no share is enough."""
        state = resnet18.state_dict()
        del state['layer4.1.bn2.running_mean']
        with pytest.raises(ValueError, match=r'1 tensors of convolutions.*layer4.1.bn2.running_mean'):
            transfer_weights(state, SEWResNet(18, T=2))

    def test_arguments(self, resnet18, tmp_path):
        model = SEWResNet(18, T=2)
        with pytest.raises(ValueError, match="transfer.scope='backbon' names no module of SEWResNet"):
            transfer_weights(resnet18, model, scope='backbon')
        with pytest.raises(FileNotFoundError, match='no checkpoint at'):
            transfer_weights(tmp_path / 'none.pth', model)
        with pytest.raises(ValueError, match='holds no state dict'):
            transfer_weights(dict(epoch=3), model)
        with pytest.raises(ValueError, match='refused'):
            transfer_weights(nn.Linear(2, 2), model)

    def test_deeper_network_is_refused(self):
        """All names of a ResNet-18 are a ResNet-34's too."""
        model = SEWResNet(18, T=2)
        before = model.conv1.weight.clone()
        with pytest.raises(ValueError, match=r'16 more convolutions .*layer1\.2\.conv1.*deeper network'):
            transfer_weights(torchvision.models.resnet34(), model)
        assert torch.equal(model.conv1.weight, before)

    def test_report(self):
        text = str(TransferReport(['a'], ['b'], {'c': ((1,), (2,))}, [f'd{i}' for i in range(9)]))
        assert text.splitlines() == [
            '1 tensors match, 2 do not',
            '  not in the source: b',
            '  shape differs: c (source (1,), model (2,))',
            '  unused in the source: d0, d1, d2, d3, d4, d5, d6, d7 and 1 more',
        ]

    def test_report_is_logged(self, resnet18, monkeypatch):
        said = []
        monkeypatch.setattr('mmsnn.checkpoints.transfer.print_log', lambda text, **_: said.append(text))
        transfer_weights(resnet18, SEWResNet(18, T=2), verbose=False)
        assert not said
        transfer_weights(resnet18, SEWResNet(18, T=2))
        assert said[0].startswith('weight transfer: 120 tensors match, 0 do not')
