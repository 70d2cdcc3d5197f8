"""Deformable convolutions and plugins in spiking residual blocks, against the ANNs of mmdet that have them."""

import mmdet.models
import mmseg.models
import pytest
import torch
from mmengine.model import BaseModule
from torch import nn

from mmsnn.checkpoints.fitting import fit
from mmsnn.layers import unfold
from mmsnn.models import MSResNet, SEWResNet, SpikingResNet
from mmsnn.neurons import Neuron

LATE = (False, True, True, True)
CONTEXT = dict(cfg=dict(type='ContextBlock', ratio=1 / 4), stages=LATE, position='after_conv3')
EARLY = dict(cfg=dict(CONTEXT['cfg'], postfix='1'), position='after_conv1')
NON_LOCAL = dict(cfg=dict(type='NonLocal2d', reduction=2), stages=(False, False, True, False), position='after_conv2')
ATTENTION = dict(
    cfg=dict(type='GeneralizedAttention', spatial_range=-1, num_heads=2, attention_type='1111', kv_stride=2),
    stages=(False, False, True, True),
    position='after_conv2',
)
SETTINGS = {
    'DCN': dict(dcn=dict(type='DCN', deform_groups=1, fallback_on_stride=False), stage_with_dcn=LATE),
    'DCNv2': dict(dcn=dict(type='DCNv2', deform_groups=2), stage_with_dcn=(False, False, True, True)),
    'one stage, caffe': dict(dcn=dict(type='DCNv2'), stage_with_dcn=(False, True, False, False), style='caffe'),
    'fallback': dict(dcn=dict(type='DCN', fallback_on_stride=True), stage_with_dcn=LATE),
    'dilated': dict(
        dcn=dict(type='DCN'), stage_with_dcn=LATE, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), frozen_stages=1
    ),
    'context': dict(plugins=[CONTEXT]),
    'three places': dict(plugins=[NON_LOCAL, CONTEXT, EARLY]),
    'postfix': dict(plugins=[dict(CONTEXT, cfg=dict(CONTEXT['cfg'], postfix=i)) for i in '12']),
    'attention and DCN': dict(plugins=[ATTENTION], dcn=dict(type='DCN'), stage_with_dcn=LATE),
}


class AnalogNeuron(nn.ReLU):
    """What an ANN has in a neuron's place."""

    def after_norm(self, norm, x):
        return self(norm(x))


def without_neurons(model):
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Neuron):
                setattr(parent, name, AnalogNeuron())
    return model


def lively_state(model):
    """Weights with which offsets, gates and norms all matter."""
    torch.manual_seed(0)
    return {
        key: torch.rand_like(v) + 0.5 if key.endswith('running_var') else torch.randn_like(v) / (v[0].numel() ** 0.5)
        if v.dim() > 1 else 0.3 * torch.randn_like(v) if v.is_floating_point() else v
        for key, v in model.state_dict().items()
    }  # fmt: skip


def small(kind=SpikingResNet, T=2, **settings):
    return kind(50, T=T, base_channels=8, **settings)


class TestAgainstANNs:
    @pytest.mark.parametrize(
        'library, name', [(mmdet, name) for name in SETTINGS] + [(mmseg, name) for name in ('DCN', 'context')]
    )
    def test_equal_where_relus_stand_for_neurons(self, library, name):
        settings = SETTINGS[name]
        theirs = library.models.ResNet(50, base_channels=8, stem_channels=8, **_copy(settings))
        ours = without_neurons(small(T=1, **settings))
        state = lively_state(theirs)
        for model in (theirs, ours):
            assert not model.load_state_dict(state, strict=True).missing_keys
            # theirs returns nothing from eval()
            model.train(False)
        x = torch.randn(2, 3, 64, 64)
        plain = without_neurons(small(T=1, **{k: settings[k] for k in settings.keys() - {'dcn', 'plugins'}})).eval()
        plain.load_state_dict(state, strict=False)
        with torch.no_grad():
            for a, b in zip(ours(x), theirs(x)):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
            # and what was put in matters
            assert not torch.allclose(plain(x)[3], ours(x)[3], rtol=1e-3, atol=1e-3)

    def test_the_users_config_stays_as_it_was(self):
        settings = _copy(SETTINGS['fallback']) | _copy(SETTINGS['postfix'])
        first, second = small(**settings), small(**settings)
        assert settings == _copy(SETTINGS['fallback']) | _copy(SETTINGS['postfix'])
        assert first.state_dict().keys() == second.state_dict().keys()


def _copy(settings):
    return {k: [_copy(v) for v in value] if k == 'plugins' else dict(value) if isinstance(value, dict) else value
            for k, value in settings.items()}  # fmt: skip


@pytest.mark.parametrize('kind', [SpikingResNet, SEWResNet])
class TestSpiking:
    @pytest.mark.parametrize('settings', [SETTINGS['DCN'], SETTINGS['three places']], ids=['DCN', 'plugins'])
    def test_steps_and_images_are_kept_apart(self, kind, settings, lively):
        model = lively(small(kind, T=3, readout='none', **settings)).eval()
        for module in model.modules():
            for name in ('conv_offset', 'conv_mask'):
                if hasattr(module, name):
                    nn.init.normal_(getattr(module, name).weight)
            if hasattr(module, 'channel_add_conv'):
                nn.init.normal_(module.channel_add_conv[-1].weight)
        frames = torch.randn(2, 3, 3, 64, 64)
        other, late = frames.clone(), frames.clone()
        other[1], late[:, 2] = torch.randn_like(frames[1]), torch.randn_like(frames[:, 2])
        with torch.no_grad():
            outs, others, lates = ([unfold(o, 3) for o in model(x)] for x in (frames, other, late))
        for a, b, c in zip(outs, others, lates):
            assert torch.equal(a[:, 0], b[:, 0])
            # no step sees a later one
            assert torch.equal(a[:2], c[:2])
        # in a stage that has them
        a, b, c = outs[1], others[1], lates[1]
        assert not torch.equal(a[:, 1], b[:, 1]) and not torch.equal(a[2], c[2])

    def test_stages_spike_and_all_learns(self, kind):
        model = small(kind, readout='none', **SETTINGS['DCNv2'], plugins=[CONTEXT]).train()
        model.load_state_dict(lively_state(model))
        outs = model(torch.randn(2, 3, 64, 64))
        assert all(torch.equal(out, out.round()) and out.any() for out in outs)
        sum(out.sum() for out in outs).backward()
        for key in ('conv2.conv_offset.weight', 'conv2.weight', 'context_block.channel_add_conv.0.weight'):
            assert model.get_parameter(f'layer3.1.{key}').grad.abs().sum() > 0, key

    def test_any_number_of_images_and_steps(self, kind):
        """mmcv's deformable convolution takes 32 images or a multiple: T*B is gone through in parts that fit."""
        model = small(kind, T=3, num_stages=2, strides=(1, 2), dcn=dict(type='DCN'), stage_with_dcn=(False, True))
        seen = []
        model.layer2[0].conv2.register_forward_hook(lambda module, *_: seen.append(module.im2col_step))
        with torch.no_grad():
            model.eval()(torch.randn(11, 3, 32, 32))
            model(torch.randn(16, 3, 32, 32))
        assert seen == [1, 16]

    def test_start_from_scratch_and_from_a_plain_checkpoint(self, kind):
        model = small(kind, **SETTINGS['DCN'], plugins=[CONTEXT])
        model.init_weights()
        for module in model.modules():
            for name in ('conv_offset', 'channel_add_conv'):
                child = getattr(module, name, None)
                last = child[-1] if isinstance(child, nn.Sequential) else child
                assert last is None or not last.weight.any()
        plain = small(kind).state_dict()
        state = fit(model, plain, 'resnet50.pth', 'start', 'backbone.init_cfg.checkpoint')
        assert state.keys() == plain.keys()
        # to test with it would be something else
        whole = BaseModule()
        whole.backbone = model
        with pytest.raises(
            ValueError, match='lacks weights of the backbone .*conv_offset|lacks weights.*context_block'
        ):
            fit(whole, {f'backbone.{k}': v for k, v in plain.items()}, 'resnet50.pth', 'test')

    def test_packed_spikes(self, kind):
        """Convolutions behind plugins, and deformable ones, keep their inputs as they are; gradients are equal."""
        plugins, grads = [{**CONTEXT, 'position': 'after_conv1'}, {**CONTEXT, 'position': 'after_conv2'}], []
        plugins[1]['cfg'] = dict(CONTEXT['cfg'], postfix='2')
        for packed in (False, True):
            settings = {**SETTINGS['DCNv2'], 'plugins': plugins, 'packed_spikes': packed}
            model = small(kind, **settings).train()
            model.load_state_dict(lively_state(model))
            torch.manual_seed(1)
            sum(out.sum() for out in model(torch.randn(2, 3, 64, 64))).backward()
            grads.append({name: p.grad for name, p in model.named_parameters()})
        for name, grad in grads[0].items():
            torch.testing.assert_close(grads[1][name], grad, rtol=1e-3, atol=1e-3, msg=name)


class TestErrors:
    @pytest.mark.parametrize(
        'settings, match',
        [
            (dict(dcn=dict(type='DCN'), stage_with_dcn=(True,) * 3), r'backbone.stage_with_dcn=.* name all 4 stages'),
            (dict(SETTINGS['DCN'], conv_cfg=dict(type='ConvWS')), 'backbone.conv_cfg=.* and backbone.dcn exclude each'),
            (dict(plugins=[dict(CONTEXT, stages=(True,))]), r'backbone.plugins\[0\].stages=.* name all 4 stages'),
            (dict(plugins=[dict(CONTEXT, position='after_conv4')]), r'backbone.plugins\[0\] needs .*after_conv3, got'),
            (dict(plugins=[dict(position='after_conv1')]), r"backbone.plugins\[0\] needs a 'cfg'"),
            (dict(plugins=[CONTEXT, CONTEXT]), "backbone.plugins: two are named 'context_block' .*'postfix'"),
        ],
    )
    def test_named(self, settings, match):
        with pytest.raises(ValueError, match=match):
            small(**settings)

    @pytest.mark.parametrize('build', [lambda **s: SEWResNet(18, **s), lambda **s: MSResNet(18, **s)])
    def test_basic_blocks(self, build):
        with pytest.raises(ValueError, match='backbone.dcn is possible only in bottleneck blocks'):
            build(**SETTINGS['DCN'])
        with pytest.raises(ValueError, match='backbone.plugins is possible only in bottleneck blocks'):
            build(plugins=[CONTEXT])
        # of no stage, or taken out of an inherited config
        build(dcn=None, stage_with_dcn=LATE)
        build(dcn=dict(type='DCN'), plugins=[])
