"""Checkpoints of others: equal logits where the other side can be built, else equal tensors under its names."""

import argparse
import copy
import json
import os
import pickle
import re
import runpy
import sys
from pathlib import Path

import cv2
import mmpretrain.models  # noqa: F401  registers
import numpy as np
import pytest
import torch
import torchvision
from mmengine.registry import MODELS
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from mmsnn.checkpoints import reading
from mmsnn.checkpoints.conversion import check_fit, convert_state, find_layout
from mmsnn.checkpoints.reading import load_state
from mmsnn.models import MetaSpikeFormer, QKFormer, Spikformer, Spikingformer, SpikingResNet, SpikingVGG
from mmsnn.models.backbones.spikformer import CIFAR

ROOT = Path(__file__).parents[2]
CLASSES, T, B = 5, 3, 2


def convert(*args):
    return runpy.run_path(str(ROOT / 'tools/model_converters/convert.py'))['main']([str(a) for a in args])


def classifier(backbone, width, head=None, neck=True):
    """The task model of a config, whose weights the converted ones replace."""
    model = dict(
        type='mmpretrain.ImageClassifier',
        backbone=backbone,
        head=head or dict(type='mmpretrain.LinearClsHead', num_classes=CLASSES, in_channels=width),
    )
    if neck:
        model['neck'] = dict(type='mmpretrain.GlobalAveragePooling') if neck is True else neck
    return MODELS.build(model).eval()


def loaded(model, state):
    converted, report = convert_state(state)
    report.fit = check_fit(converted, model)
    model.load_state_dict(converted)
    return report


def test_where_it_is_written(tmp_path, capsys):
    """Not over the source, whose optimizer and position would be lost, and not into the name of a folder."""
    file = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict={'conv1.weight': torch.rand(4, 3, 3, 3)}, optimizer=dict(a=1)), file)
    before = file.read_bytes()
    (tmp_path / 'link.pth').symlink_to(file)
    for out, message in ((file, 'is the source'), (tmp_path / 'link.pth', 'is the source'), (tmp_path, 'is a folder')):
        with pytest.raises(SystemExit):
            convert(file, out)
        assert message in capsys.readouterr().err and file.read_bytes() == before


@MODELS.register_module(force=True)
class PoolTo7(nn.AdaptiveAvgPool2d):
    """What stands between features and linear layers in torchvision's VGG."""

    def __init__(self):
        super().__init__(7)

    def forward(self, maps):
        return tuple(super(PoolTo7, self).forward(x).flatten(1) for x in maps)


class TestSpikingJelly:
    """Its networks and ours, same weights and images, in float64."""

    def run(self, net, lively, image):
        from spikingjelly.activation_based import functional

        functional.set_step_mode(net, 'm')
        # the same image at every step
        sequence = image.unsqueeze(0).repeat(T, 1, 1, 1, 1)

        class Reset(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = net

            def forward(self, x):
                functional.reset_net(self.net)
                return self.net(x)

        lively(Reset(), sequence.float())
        net.double().eval()
        with torch.no_grad():
            out = Reset().eval()(sequence)
        functional.reset_net(net)
        return out.mean(0) if out.dim() == 3 else out

    @staticmethod
    def neuron(kind, **kwargs):
        from spikingjelly.activation_based import neuron

        return dict(spiking_neuron=getattr(neuron, kind), detach_reset=True, **kwargs)

    @pytest.fixture
    def image(self):
        return torch.randn(B, 3, 64, 64, dtype=torch.float64)

    @staticmethod
    def check(model, net, expected, image):
        report = loaded(model.double(), net.state_dict())
        with torch.no_grad():
            found = model(image, mode='tensor')
        torch.testing.assert_close(found, expected)
        # not the bias alone, which a silent network would answer
        assert found.std(0).min() > 1e-6
        return report

    @pytest.mark.parametrize('connect', ['ADD', 'IAND'])
    def test_sew_resnet(self, lively, image, connect):
        """With learnt time constants."""
        from spikingjelly.activation_based.model import sew_resnet

        net = sew_resnet.sew_resnet18(
            num_classes=CLASSES, cnf=connect, **self.neuron('ParametricLIFNode', init_tau=1.7)
        )
        for name, parameter in net.named_parameters():
            if name.endswith('.w'):
                parameter.data += torch.rand(())
        expected = self.run(net, lively, image)
        neuron = dict(type='PLIF', init_tau=3.0)
        backbone = dict(type='mmsnn.SEWResNet', depth=18, T=T, neuron=neuron, connect=connect, out_indices=(3,))
        report = self.check(classifier(backbone, 512), net, expected, image)
        assert report.layout.name == 'resnet' and report.names['backbone.neuron1.w'] == 'sn1.w'
        assert report.names['backbone.layer2.0.downsample_neuron.w'] == 'layer2.0.downsample_sn.w'
        assert not (report.unused or report.spare or report.fit.missing or report.fit.unused)

    def test_spiking_resnet_bottleneck(self, lively, image):
        from spikingjelly.activation_based.model import spiking_resnet

        net = spiking_resnet.spiking_resnet50(num_classes=CLASSES, **self.neuron('IFNode'))
        expected = self.run(net, lively, image)
        backbone = dict(type='mmsnn.SpikingResNet', depth=50, T=T, neuron=dict(type='IF'), out_indices=(3,))
        self.check(classifier(backbone, 2048), net, expected, image)

    def test_ms_resnet(self, lively, image):
        from spikingjelly.activation_based.model import ms_resnet

        net = ms_resnet.ms_resnet18(T=T, num_classes=CLASSES)
        expected = self.run(net, lively, image)
        neuron = dict(type='LIF', tau=4 / 3, v_threshold=0.5, decay_input=False)
        backbone = dict(type='mmsnn.MSResNet', depth=18, T=T, neuron=neuron, out_indices=(3,))
        report = self.check(classifier(backbone, 512), net, expected, image)
        assert report.layout.name == 'ms_resnet'

    def test_spiking_vgg(self, lively, image):
        """With its three linear layers, which are narrower here."""
        from spikingjelly.activation_based import layer, neuron
        from spikingjelly.activation_based.model import spiking_vgg

        with torch.device('meta'):
            # 120 million parameters that are not needed
            wide = spiking_vgg.spiking_vgg11_bn(**self.neuron('LIFNode', tau=2.0))
        net = wide.to_empty(device='cpu')
        net.classifier = nn.Sequential(
            layer.Linear(512 * 49, 16),
            neuron.LIFNode(),
            layer.Dropout(),
            layer.Linear(16, 12),
            neuron.LIFNode(),
            layer.Dropout(),
            layer.Linear(12, CLASSES),
        )
        net._initialize_weights()
        for i in (0, 3, 6):
            nn.init.normal_(net.classifier[i].weight)
        for norm in net.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.reset_running_stats()
        expected = self.run(net, lively, image)
        backbone = dict(type='mmsnn.SpikingVGG', depth=11, T=T, readout='none', out_indices=(4,))
        head = dict(
            type='mmsnn.SpikingStackedLinearClsHead',
            num_classes=CLASSES,
            in_channels=512 * 49,
            mid_channels=[16, 12],
            T=T,
        )
        model = classifier(backbone, None, head, neck=dict(type='PoolTo7'))
        assert self.check(model, net, expected, image).layout.name == 'vgg'
        # another head stays as it was, and the report says so
        fit = check_fit(convert_state(net.state_dict())[0], classifier(dict(backbone, readout='mean'), 512))
        assert fit.missing == ['head.fc.weight', 'head.fc.bias']
        assert [name for name in fit.unused if not name.startswith('head.layers.')] == []

    @pytest.mark.parametrize('patch', [4, 16])
    def test_spikformer(self, lively, image, patch):
        """Which pools in front of the neurons, and has fewer biases."""
        from spikingjelly.activation_based.model import spikformer

        net = spikformer.Spikformer(T, patch_size=patch, num_classes=CLASSES, embed_dims=32, num_heads=4, depths=2)
        expected = self.run(net, lively, image)
        arch = dict(embed_dims=32, num_layers=2, num_heads=4)
        if patch == 4:
            arch['pool'] = CIFAR
        backbone = dict(type='mmsnn.Spikformer', arch=arch, T=T, cml=True)
        report = self.check(classifier(backbone, 32), net, expected, image)
        assert report.layout.name == 'jelly_spikformer' and not (report.unused or report.fit.missing)
        assert len(report.added) == 6 and 'backbone.block.1.attn.proj_conv.bias' in report.added
        # the release's order is another network
        model = classifier(dict(backbone, cml=False), 32).double()
        loaded(model, net.state_dict())
        assert (model(image, mode='tensor') - expected).abs().max() > 1e-3

    def test_qkformer(self, lively, image):
        """Whose patch embedding has biases in front of its norms."""
        from spikingjelly.activation_based.model import qkformer

        net = qkformer.QKFormer(T, embed_dims=32, num_heads=(4,) * 3, depths=(1, 2, 1), num_classes=CLASSES)
        for name, parameter in net.named_parameters():
            if name.endswith('conv1.bias'):
                nn.init.normal_(parameter, std=0.3)
        expected = self.run(net, lively, image)
        arch = dict(embed_dims=32, num_layers=(1, 2, 1), num_heads=4)
        report = self.check(classifier(dict(type='mmsnn.QKFormer', arch=arch, T=T), 32), net, expected, image)
        assert report.layout.name == 'jelly_qkformer' and not (report.unused or report.fit.missing)
        assert len(report.folded) == 10 and len(report.added) == 4


class TestTorchvision:
    def test_resnet(self, lively):
        ann = lively(torchvision.models.resnet18(num_classes=CLASSES), torch.randn(3, 3, 64, 64)).eval()
        model = classifier(dict(type='mmpretrain.ResNet', depth=18), 512)
        loaded(model, {f'module.{k}': v for k, v in ann.state_dict().items()})
        image = torch.randn(B, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(model(image, mode='tensor'), ann(image))

    def test_vit(self):
        ann = VisionTransformer(32, 16, 2, 2, 8, 16, num_classes=CLASSES).eval()
        for parameter in ann.parameters():
            nn.init.normal_(parameter, std=0.5)
        arch = dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16)
        model = classifier(
            dict(type='mmpretrain.VisionTransformer', arch=arch, img_size=32, patch_size=16),
            8,
            dict(type='mmpretrain.VisionTransformerClsHead', num_classes=CLASSES, in_channels=8),
            neck=False,
        )
        report = loaded(model, ann.state_dict())
        assert report.layout.name == 'torchvision_vit' and not report.unused
        image = torch.randn(B, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(model(image, mode='tensor'), ann(image))
        # timm's names for the same tensors
        names = {
            'class_token': 'cls_token', 'encoder.pos_embedding': 'pos_embed', 'conv_proj': 'patch_embed.proj',
            'encoder.layers.encoder_layer_': 'blocks.', 'self_attention.in_proj_': 'attn.qkv.',
            'self_attention.out_proj': 'attn.proj', 'mlp.0': 'mlp.fc1', 'mlp.3': 'mlp.fc2', 'encoder.ln.': 'norm.',
            'ln_': 'norm', 'heads.head': 'head',
        }  # fmt: skip
        timm = renamed(ann.state_dict(), names)
        assert 'blocks.1.mlp.fc2.bias' in timm and 'norm.weight' in timm and 'blocks.0.norm2.bias' in timm
        converted, report = convert_state(timm)
        assert report.layout.name == 'timm_vit'
        same(converted, model.state_dict())


def renamed(state, names):
    """Names of a release, by plain replacement."""
    out = {}
    for key, value in state.items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        out[key] = value
    return out


def same(converted, state):
    assert set(converted) == set(state)
    assert all(torch.equal(converted[key], state[key]) for key in state)


class Nested(nn.Module):
    """The container of the SpikingJelly that SEW's code was written for."""

    def __init__(self, *layers):
        super().__init__()
        self.module = nn.Sequential(*layers)

    def __getitem__(self, i):
        return self.module[i]


class Release(nn.Module):
    """SEW-ResNet-18 of the authors' ImageNet code, without its neurons, which have no parameters."""

    def __init__(self, container, width=4):
        super().__init__()

        def conv_norm(c_in, c_out, kernel, stride=1):
            return container(nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(c_out))

        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        c_in = width
        for stage in range(1, 5):
            c_out, blocks = width * 2 ** (stage - 1), nn.Sequential()
            for i in range(2):
                block = nn.Module()
                stride = 2 if stage > 1 and i == 0 else 1
                block.conv1, block.conv2 = conv_norm(c_in, c_out, 3, stride), conv_norm(c_out, c_out, 3)
                if c_in != c_out:
                    block.downsample = nn.Sequential(conv_norm(c_in, c_out, 1, stride), nn.Identity())
                blocks.append(block)
                c_in = c_out
            setattr(self, f'layer{stage}', blocks)
        self.fc = nn.Linear(c_in, CLASSES)
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.is_floating_point():
                tensor.data.normal_()


class TestReleasedResNets:
    @pytest.mark.parametrize('container', [Nested, nn.Sequential])
    @pytest.mark.parametrize('prefix', ['', 'module.'])
    def test_sew_imagenet(self, container, prefix):
        release = Release(container)
        backbone = dict(type='mmsnn.SEWResNet', depth=18, base_channels=4, T=2, out_indices=(3,))
        model = classifier(backbone, 32)
        report = loaded(model, {prefix + k: v for k, v in release.state_dict().items()})
        assert not (report.unused or report.fit.missing or report.fit.unused)
        ours = model.backbone
        pairs = [(ours.conv1, release.conv1), (ours.bn1, release.bn1), (model.head.fc, release.fc)]
        for stage in range(1, 5):
            for mine, theirs in zip(getattr(ours, f'layer{stage}'), getattr(release, f'layer{stage}'), strict=True):
                pairs += [(mine.conv1, theirs.conv1[0]), (mine.bn1, theirs.conv1[1])]
                pairs += [(mine.conv2, theirs.conv2[0]), (mine.bn2, theirs.conv2[1])]
                if mine.downsample is not None:
                    pairs += list(zip(mine.downsample, theirs.downsample[0][:] if container is nn.Sequential else
                                      theirs.downsample[0].module, strict=True))  # fmt: skip
        assert len(pairs) == 3 + 8 * 4 + 3 * 2
        for mine, theirs in pairs:
            same(mine.state_dict(), theirs.state_dict())

    def test_sakd(self):
        """torchvision's names, and projectors that only training had."""
        model = classifier(dict(type='mmsnn.SpikingResNet', depth=18, base_channels=8, T=2), 64)
        state = {k.removeprefix('backbone.').removeprefix('head.'): v for k, v in model.state_dict().items()}
        projectors = {f'transform{i}.net.0.weight': torch.rand(8, 8, 1, 1) for i in range(1, 5)}
        converted, report = convert_state({**state, **projectors})
        same(converted, model.state_dict())
        assert (
            report.layout.name == 'resnet' and report.spare == list(projectors) and 'decay_input=False' in str(report)
        )

    def test_sakd_resnet19(self):
        head = dict(type='mmsnn.SpikingStackedLinearClsHead', num_classes=CLASSES, in_channels=32, mid_channels=[6])
        backbone = dict(type='mmsnn.SpikingResNet19', base_channels=8, T=2, readout='none')
        model = classifier(backbone, None, head)
        names = {'backbone.': '', 'head.layers.0.fc': 'fc', 'head.layers.1.fc': 'fc_'}
        converted, report = convert_state(renamed(model.state_dict(), names))
        same(converted, model.state_dict())
        assert report.layout.name == 'sakd_resnet19'

    def test_other_networks_of_sew_are_refused_by_name(self):
        """Its code for event data: Sequential(SeqToANNContainer(conv, norm), neuron), then blocks of two."""
        step = nn.Sequential(Nested(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)), nn.Identity())
        block = nn.Module()
        block.conv = nn.Sequential(copy.deepcopy(step), copy.deepcopy(step))
        net = nn.Module()
        net.conv = nn.Sequential(step, block)
        net.out = nn.Linear(4, 10)
        assert 'conv.1.conv.0.0.module.0.weight' in net.state_dict()
        with pytest.raises(ValueError, match='DVS128 Gesture.*not a ResNet'):
            convert_state(net.state_dict())


ARCH = dict(embed_dims=32, num_layers=2, num_heads=2)
STEPS = dict(embed_dims=32, num_layers=(1, 1, 1), num_heads=2)
META = dict(embed_dims=(16, 16, 24, 32), num_layers=(1, 1), num_heads=2)
TOKENS = r'\.attn\.\w+_conv\.weight$'


def flatten(state, pattern, dim):
    """Weights of 1x1 convolutions as those of 1-d convolutions (3) or linear layers (2)."""
    return {k: v.flatten(dim - 1) if re.search(pattern, k) else v for k, v in state.items()}


class TestTransformers:
    """Our own weights under the names of the releases; the way back must give exactly what there was."""

    def check(self, backbone, change, layout, extra=()):
        model = nn.Module()
        model.backbone = backbone
        model.head = nn.Module()
        model.head.fc = nn.Linear(backbone.out_channels[-1], CLASSES)
        own = model.state_dict()
        release = {k.replace('head.fc', 'head') if k.startswith('head') else k[9:]: v for k, v in own.items()}
        release = {**change(release), **{key: torch.rand(32) for key in extra}}
        converted, report = convert_state(release)
        same(converted, own)
        assert report.layout.name == layout and report.spare == list(extra) and not report.unused
        check_fit(converted, model)
        return report

    @pytest.mark.parametrize('cifar', [False, True])
    def test_spikformer(self, cifar):
        def change(state):
            if not cifar:
                return flatten(state, TOKENS, 3)
            state = flatten(state, r'^block.*_conv\.weight$', 2)
            names = {f'{site}_conv': f'{site}_linear' for site in ('q', 'k', 'v', 'fc1', 'fc2')}
            names['attn.proj_conv'] = 'attn.proj_linear'
            return renamed(state, names)

        arch = dict(ARCH, qkv_bias=True, pool=(False, False, True, True)) if cifar else ARCH
        extra = [f'block.{i}.norm{j}.weight' for i in (0, 1) for j in (1, 2)]
        report = self.check(Spikformer(arch, T=2), change, 'spikformer', extra)
        # q, k, v and the projection; on CIFAR also the MLP
        assert len(report.reshaped) == 2 * (6 if cifar else 4)
        assert report.reshaped['backbone.block.1.attn.k_conv.weight'][1] == (32, 32, 1, 1)

    @pytest.mark.parametrize('cifar', [False, True])
    def test_spikingformer(self, cifar):
        def change(state):
            state = flatten(state, TOKENS, 3)
            names = {'patch_embed.proj_': 'patch_embed.block0_', 'patch_embed.proj': 'patch_embed.block'}
            return renamed(state, names) if cifar else state

        report = self.check(Spikingformer(ARCH, T=2), change, 'spikingformer', ['block.1.norm2.bias'])
        assert len(report.reshaped) == 8

    @pytest.mark.parametrize('cifar', [False, True])
    def test_qkformer(self, cifar):
        def change(state):
            state = flatten(state, r'\.(attn|tssa)\.\w+_conv\.weight$', 3)
            return renamed(state, {'.fc1_': '.mlp1_', '.fc2_': '.mlp2_', '.attn.': '.ssa.'}) if cifar else state

        arch = dict(STEPS, stem='cifar') if cifar else STEPS
        report = self.check(QKFormer(arch, T=2), change, 'qkformer')
        assert 'beware: in the release, membrane potentials of proj_lif pass from one image' in str(report)
        assert len(report.reshaped) == 3 + 3 + 4

    def test_meta_spikeformer(self):
        report = self.check(
            MetaSpikeFormer(META, T=2), lambda s: flatten(s, r'\.fc\d_conv\.weight$', 3), 'meta_spikeformer'
        )
        assert len(report.reshaped) == 2 * 2

    def test_two_heads(self):
        """The release answers with the mean of two linear layers: one of mean weights."""
        feature = torch.randn(B, 32, dtype=torch.float64)
        heads = [nn.Linear(32, CLASSES).double() for _ in range(2)]
        state = {k: v.double() for k, v in MetaSpikeFormer(META, T=2).state_dict().items()}
        for name, head in zip(('head', 'head_kd'), heads):
            state |= {f'{name}.{k}': v for k, v in head.state_dict().items()}
        converted, report = convert_state(state)
        merged = nn.functional.linear(feature, converted['head.fc.weight'], converted['head.fc.bias'])
        torch.testing.assert_close(merged, (heads[0](feature) + heads[1](feature)) / 2)
        assert report.merged == ['head.fc.weight', 'head.fc.bias'] and not report.unused

    def test_tokens(self):
        """A linear layer on tokens and the 1x1 convolution on maps that it becomes."""
        linear, tokens = nn.Linear(32, 32).double(), torch.randn(B, 6, 32, dtype=torch.float64)
        state = {'patch_embed.proj_conv1.weight': torch.rand(1), 'block.0.attn.q_linear.weight': linear.weight}
        weight = convert_state(state)[0]['backbone.block.0.attn.q_conv.weight']
        maps = nn.functional.conv2d(tokens.transpose(1, 2).unflatten(2, (2, 3)), weight, linear.bias)
        torch.testing.assert_close(maps.flatten(2).transpose(1, 2), linear(tokens))


class TestRefusals:
    def state(self, **settings):
        model = classifier(dict(type='mmsnn.SEWResNet', T=2, **{'depth': 18, 'base_channels': 8, **settings}), 64)
        return {k.removeprefix('backbone.').removeprefix('head.'): v for k, v in model.state_dict().items()}

    @pytest.mark.parametrize(
        'settings, match',
        [
            (dict(depth=34), r'(?s)entries of the backbone do not fit.*unused in the source: backbone\.layer1\.2'),
            (dict(base_channels=4), r'(?s)do not fit.*shape differs: backbone\.conv1\.weight'),
            (dict(stem='cifar'), r'(?s)1 entries of the backbone do not fit.*conv1.weight .source .8, 3, 3, 3.'),
        ],
    )
    def test_other_architecture(self, settings, match):
        converted, _ = convert_state(self.state(**settings))
        model = classifier(dict(type='mmsnn.SEWResNet', depth=18, base_channels=8, T=2), 64)
        with pytest.raises(ValueError, match=match):
            check_fit(converted, model)

    def test_missing_tensor(self):
        state = self.state()
        del state['layer3.1.bn2.running_var']
        model = classifier(dict(type='mmsnn.SEWResNet', depth=18, base_channels=8, T=2), 64)
        with pytest.raises(
            ValueError, match=r'(?s)1 entries.*not in the source: backbone\.layer3\.1\.bn2\.running_var'
        ):
            check_fit(convert_state(state)[0], model)

    def test_layouts(self):
        with pytest.raises(ValueError, match='(?s)unknown layout, with names such as a.b.*spikformer:'):
            convert_state({'a.b': torch.rand(1)})
        with pytest.raises(ValueError, match="no layout 'sew'"):
            find_layout({}, 'sew')
        with pytest.raises(ValueError, match='nothing in it is a backbone of layout vgg'):
            convert_state(self.state(), 'vgg')
        both = {**self.state(), 'layer1.0.conv1.0.weight': torch.rand(1)}
        with pytest.raises(ValueError, match='would both be backbone.layer1.0.conv1.weight'):
            convert_state(both)

    def test_unknown_entries_are_named(self):
        converted, report = convert_state({**self.state(), 'aux.weight': torch.rand(1)})
        assert report.unused == ['aux.weight'] and 'unknown and left out: 1 (aux.weight)' in str(report)
        assert 'aux.weight' not in ''.join(converted)


class Hostile:
    def __reduce__(self):
        return os.mkdir, ('executed',)


CONFIG = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmsnn'])
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmsnn.SEWResNet', depth=18, T=2, base_channels=4, out_indices=(3,), neuron=dict(type='IF')),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=5, in_channels=32, topk=(1,)))
data_preprocessor = dict(num_classes=5, mean=[127.5] * 3, std=[60] * 3, to_rgb=True)
test_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset', data_root={root!r}, data_prefix='images',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
test_evaluator = dict(type='Accuracy', topk=(1,))
test_cfg = dict()
"""


class TestTool:
    @pytest.fixture
    def config(self, tmp_path):
        for label in range(5):
            folder = tmp_path / 'images' / f'class{label}'
            folder.mkdir(parents=True)
            noise = np.random.default_rng(label).integers(0, 256, (32, 32, 3)).astype(np.uint8)
            cv2.imwrite(str(folder / 'noise.png'), noise)
        path = tmp_path / 'config.py'
        path.write_text(CONFIG.format(root=str(tmp_path)))
        return path

    def test_converted_file_is_tested(self, config, tmp_path, lively, capsys):
        """A file as SEW's script writes it, command line included; test.py predicts what our own file would."""
        backbone = dict(
            type='mmsnn.SEWResNet', depth=18, T=2, base_channels=4, out_indices=(3,), neuron=dict(type='IF')
        )
        model = classifier(backbone, 32)
        lively(model.backbone)
        own = model.state_dict()
        names = {'.conv1.': '.conv1.module.0.', '.conv2.': '.conv2.module.0.', '.bn1.': '.conv1.module.1.'}
        names |= {'.bn2.': '.conv2.module.1.', '.downsample.': '.downsample.0.module.', 'head.': ''}
        release = renamed({k.removeprefix('backbone.'): v for k, v in own.items()}, names)
        assert 'layer2.0.downsample.0.module.1.running_mean' in release and 'conv1.weight' in release
        arguments = argparse.Namespace(model='sew_resnet18', lr=0.1, distributed=True)
        torch.save(dict(model=release, optimizer={}, epoch=3, args=arguments), tmp_path / 'sew.pth')
        torch.save(dict(state_dict=own), tmp_path / 'own.pth')
        out = tmp_path / 'made' / 'converted.pth'
        report = convert(tmp_path / 'sew.pth', out, '--config', config)
        text = capsys.readouterr().out
        assert report.fit.missing == [] and 'tensors match, 0 do not' in text and "type='IF'" in text
        meta = torch.load(out, weights_only=True)['meta']
        assert meta['source'] == 'sew.pth' and meta['layout'] == 'resnet' and str(tmp_path) not in json.dumps(meta)

        scores = []
        test = runpy.run_path(str(ROOT / 'tools/test.py'))['main']
        for file in (out, tmp_path / 'own.pth'):
            dump = tmp_path / f'{file.stem}.pkl'
            test([str(config), str(file), '--work-dir', str(tmp_path / 'run'), '--out', str(dump)])
            scores.append([sample['pred_score'] for sample in pickle.loads(dump.read_bytes())])
        assert len(scores[0]) == 5
        torch.testing.assert_close(torch.stack(scores[0]), torch.stack(scores[1]), rtol=0, atol=0)
        # the images are told apart
        assert torch.stack(scores[0]).std(0).min() > 0

    def test_nothing_is_written_after_a_refusal(self, config, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        source, out = tmp_path / 'source.pth', tmp_path / 'out.pth'
        torch.save(dict(state_dict=torchvision.models.resnet18().state_dict()), source)
        with pytest.raises(ValueError, match='entries of the backbone do not fit ImageClassifier'):
            convert(source, out, '--config', config)
        torch.save(dict(state_dict=dict(a=torch.rand(1)), args=Hostile()), source)
        with pytest.raises(ValueError, match='(?s)could run code.*save its state dict alone'):
            convert(source, out)
        assert not out.exists() and not (tmp_path / 'executed').exists()
        with pytest.raises(FileNotFoundError, match='no checkpoint at'):
            convert(tmp_path / 'none.pth', out)

    def test_key_and_layout(self, tmp_path, capsys):
        source, out = tmp_path / 'source.pth', tmp_path / 'out.pth'
        states = [torchvision.models.resnet18(num_classes=2).state_dict() for _ in range(2)]
        torch.save(dict(state_dict=states[0], state_dict_ema=states[1]), source)
        convert(source, out, '--key', 'state_dict_ema', '--layout', 'resnet')
        written = torch.load(out, weights_only=True)['state_dict']
        assert torch.equal(written['backbone.conv1.weight'], states[1]['conv1.weight'])
        with pytest.raises(ValueError, match="no state dict under 'ema', but state_dict, state_dict_ema"):
            convert(source, out, '--key', 'ema')

    def test_help_names_the_layouts(self, capsys):
        with pytest.raises(SystemExit):
            convert('--help')
        assert "Spikformer's ImageNet and CIFAR code" in capsys.readouterr().out


class TestNames:
    """Which address a name stands for; nothing is downloaded."""

    @pytest.fixture
    def asked(self, monkeypatch, tmp_path):
        found = []

        def download(url, path, progress):
            found.append(url)
            torch.save({'fc.weight': torch.rand(1)}, path)

        monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
        monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
        return found

    def test_torchvision(self, asked):
        weights = torchvision.models.ResNet50_Weights
        for name in ('resnet50', 'resnet50.imagenet1k_v1', 'resnet50.IMAGENET1K_V2'):
            load_state(f'torchvision://{name}')
        # what lies there is not fetched again
        assert asked == [weights.IMAGENET1K_V2.url, weights.IMAGENET1K_V1.url] and weights.DEFAULT.url == asked[0]
        for name in ('resnet51', 'resnet50.imagenet1k_v9'):
            with pytest.raises(ValueError, match=f'torchvision://{name}: torchvision has no such weights'):
                load_state(f'torchvision://{name}')

    def test_mmpretrain(self, asked):
        load_state('mmpretrain://resnet34_8xb32_in1k')
        assert len(asked) == 1 and re.search(r'/resnet34_8xb32_in1k_\w+-\w+\.pth$', asked[0])
        with pytest.raises(ValueError, match='resnet35'):
            load_state('mmpretrain://resnet35')

    def test_url(self, asked, tmp_path):
        for _ in range(2):
            assert list(load_state('https://host/file.pth?x=y')) == ['fc.weight']
        assert asked == ['https://host/file.pth?x=y'] and (tmp_path / 'checkpoints' / 'file.pth').is_file()
        with pytest.raises(ValueError, match='https://host/ names no file'):
            load_state('https://host/')

    def test_timm(self, monkeypatch):
        monkeypatch.setitem(sys.modules, 'timm', None)
        with pytest.raises(ImportError, match=r"timm://resnet18 needs timm: pip install 'mmsnn\[timm\]'"):
            load_state('timm://resnet18')

    @pytest.mark.parametrize('content', ['a call', 'a web page', 'a claim'])
    def test_refused_download(self, monkeypatch, tmp_path, content):
        """The address and the file that lies there now are both named."""

        def download(url, path, progress):
            if content == 'a web page':
                Path(path).write_text('<html></html>')
            else:
                claim = torch.zeros(1).expand(10**6, 10**6)
                torch.save(dict(model=print if content == 'a call' else claim), path)

        monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
        monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
        said = 'is not a checkpoint but a web page' if content == 'a web page' else 'was not loaded: .*could run code'
        with pytest.raises(ValueError, match=rf'https://host/file.pth: {tmp_path}/checkpoints/file.pth {said}'):
            load_state('https://host/file.pth')

    def test_names_of_states(self):
        assert reading.find_state(dict(net=dict(a=torch.rand(1))), 'x')


def test_every_layout_is_found_by_itself():
    """And none of another's files is taken for it."""
    states = dict(
        resnet=torchvision.models.resnet18(),
        vgg=SpikingVGG(11, base_channels=4),
        spikformer=Spikformer(ARCH),
        spikingformer=Spikingformer(ARCH),
        qkformer=QKFormer(STEPS),
        meta_spikeformer=MetaSpikeFormer(META),
        torchvision_vit=VisionTransformer(32, 16, 1, 2, 8, 16),
        openmmlab=classifier(dict(type='mmsnn.SEWResNet', depth=18, base_channels=4), 32),
    )
    assert {name: find_layout(model.state_dict()).name for name, model in states.items()} == {n: n for n in states}
    # a bare backbone of mmseg with its deep stem is a ResNet, too
    deep = SpikingResNet(18, base_channels=8, deep_stem=True)
    converted, report = convert_state(deep.state_dict())
    assert report.layout.name == 'resnet' and set(converted) == {f'backbone.{k}' for k in deep.state_dict()}
