"""Meta-SpikeFormer: equal to a plain loop over time, pairs of tokens and 3x3 kernels."""

import pytest
import torch
from formers import DOUBLE, Questions
from mmdet.models import FPN
from torch import nn
from torch.nn import functional as F

from mmsnn.models import MetaSpikeFormer, SpikingPooling
from mmsnn.models.backbones.meta_spikeformer import NormAndPad
from mmsnn.neurons import LIF


def conv_norm(steps, conv, norm, x, **kwargs):
    return steps.norm(norm, steps.conv(conv, x, **kwargs))


def rep_conv(steps, name, x):
    """RepConv and the norm behind it as the one 3x3 convolution that it is in deployment."""
    body, state = f'{name}.0.body', steps.state

    def affine(norm):
        scale = state[f'{norm}.weight'] / (state[f'{norm}.running_var'] + 1e-5).sqrt()
        return scale, state[f'{norm}.bias'] - state[f'{norm}.running_mean'] * scale

    first, depthwise, last = (state[f'{body}.{i}.weight'] for i in ('0', '2.0', '2.1'))
    (a, b), (c, d), (e, f) = (affine(n) for n in (f'{body}.1.bn', f'{body}.2.2', f'{name}.1'))
    # inner channel m to output o, input i to inner channel m
    kernel = torch.einsum('om,mhw,m,mi->oihw', last[:, :, 0, 0], depthwise[:, 0], a, first[:, :, 0, 0])
    shift = torch.einsum('om,mhw,m->o', last[:, :, 0, 0], depthwise[:, 0], b)
    kernel, shift = kernel * (c * e).view(-1, 1, 1, 1), (shift * c + d) * e + f
    return F.conv2d(x, kernel, shift, padding=1)


def conv_block(steps, name, x):
    inner = conv_norm(steps, f'{name}.Conv.pwconv1', f'{name}.Conv.bn1', steps.lif(f'{name}.Conv.lif1', x))
    spikes = steps.lif(f'{name}.Conv.lif2', inner)
    inner = steps.conv(f'{name}.Conv.dwconv', spikes, groups=spikes.shape[1])
    x = x + conv_norm(steps, f'{name}.Conv.pwconv2', f'{name}.Conv.bn2', inner)
    inner = conv_norm(steps, f'{name}.conv1', f'{name}.bn1', steps.lif(f'{name}.lif1', x))
    return x + conv_norm(steps, f'{name}.conv2', f'{name}.bn2', steps.lif(f'{name}.lif2', inner))


def block(steps, name, x, heads):
    attn, mlp = f'{name}.attn', f'{name}.mlp'
    spikes = steps.lif(f'{attn}.head_lif', x)
    q, k, v = (steps.lif(f'{attn}.{n}_lif', rep_conv(steps, f'{attn}.{n}_conv', spikes)) for n in 'qkv')
    out = steps.lif(f'{attn}.attn_lif', steps.maps(steps.attend(q, k, v, heads), x), 0.5)
    x = x + rep_conv(steps, f'{attn}.proj_conv', out)
    inner = conv_norm(steps, f'{mlp}.fc1_conv', f'{mlp}.fc1_bn', steps.lif(f'{mlp}.fc1_lif', x))
    return x + conv_norm(steps, f'{mlp}.fc2_conv', f'{mlp}.fc2_bn', steps.lif(f'{mlp}.fc2_lif', inner))


def plain(steps, x, heads=4, last_stride=1):
    def down(name, x, stride=2):
        return conv_norm(steps, f'{name}.encode_conv', f'{name}.encode_bn', x, stride=stride)

    def fire_down(name, x, stride=2):
        return down(name, steps.lif(f'{name}.encode_lif', x), stride)

    outs = [conv_block(steps, 'ConvBlock1_1.0', down('downsample1_1', x))]
    outs.append(conv_block(steps, 'ConvBlock1_2.0', fire_down('downsample1_2', outs[-1])))
    x = conv_block(steps, 'ConvBlock2_1.0', fire_down('downsample2', outs[-1]))
    outs.append(conv_block(steps, 'ConvBlock2_2.0', x))
    outs.append(block(steps, 'block3.0', fire_down('downsample3', outs[-1]), heads))
    outs.append(block(steps, 'block4.0', fire_down('downsample4', outs[-1], last_stride), heads))
    return outs


class TestMetaSpikeFormer(Questions):
    cls = MetaSpikeFormer
    arch = dict(embed_dims=(16, 16, 24, 32), num_layers=(1, 1), num_heads=4)
    strides, widths = (2, 4, 8, 16, 16), (8, 16, 16, 24, 32)
    first = 'downsample1_1.encode_conv'

    def plain(self, steps, x):
        return plain(steps, x)

    def cancelled(self, model):
        """Also what stands between the two norms behind a RepConv, whose statistics swallow it."""
        repeated = {n for n, _ in model.named_parameters() if '.body.2.2.' in n}
        return super().cancelled(model) | repeated

    def test_four_maps_by_default(self):
        model = MetaSpikeFormer(self.arch)
        assert model.out_indices == (1, 2, 3, 4) and model.out_channels == (16, 16, 24, 32)

    @pytest.mark.parametrize('last_stride, strides', [(1, (4, 8, 16, 16)), (2, (4, 8, 16, 32))])
    def test_feature_pyramid(self, last_stride, strides):
        """Images of any size, as detectors have them."""
        model = MetaSpikeFormer(self.arch, T=2, last_stride=last_stride)
        neck = FPN(list(model.out_channels), 8, num_outs=5)
        maps = neck(model(torch.randn(2, 3, 70, 93)))
        assert [m.shape[-1] for m in maps[:4]] == [-(-93 // s) for s in strides] and len(maps) == 5

    def test_last_stride(self):
        model = self.make(last_stride=2)
        assert [o.shape[-1] for o in model(torch.randn(3, 3, 64, 64))] == [32, 16, 8, 4, 2]
        assert model.state_dict().keys() == MetaSpikeFormer(self.arch).state_dict().keys()
        with pytest.raises(ValueError, match='backbone.last_stride must be 1 or 2, got 4'):
            MetaSpikeFormer(self.arch, last_stride=4)

    def test_names_of_the_release(self):
        names = {k.rpartition('.')[0] for k in MetaSpikeFormer(self.arch).state_dict()}
        downs = {f'downsample{n}.encode_{kind}' for n in ('1_1', '1_2', '2', '3', '4') for kind in ('conv', 'bn')}
        convs = ('Conv.pwconv1', 'Conv.bn1', 'Conv.dwconv', 'Conv.pwconv2', 'Conv.bn2', 'conv1', 'bn1', 'conv2', 'bn2')
        blocks = {f'ConvBlock{n}.0.{m}' for n in ('1_1', '1_2', '2_1', '2_2') for m in convs}
        rep = ('0.body.0', '0.body.1.bn', '0.body.2.0', '0.body.2.1', '0.body.2.2', '1')
        inner = [f'attn.{n}_conv.{m}' for n in ('q', 'k', 'v', 'proj') for m in rep]
        inner += [f'mlp.fc{i}_{kind}' for i in (1, 2) for kind in ('conv', 'bn')]
        assert names == downs | blocks | {f'block{i}.0.{m}' for i in (3, 4) for m in inner}

    @pytest.mark.parametrize('norm', ['GN', 'mmsnn.TEBN'])
    def test_norms_without_running_statistics(self, norm):
        cfg = dict(type=norm, **(dict(num_groups=2) if norm == 'GN' else {}))
        with pytest.raises(ValueError, match='backbone.norm_cfg: MetaSpikeFormer needs batch norms'):
            MetaSpikeFormer(self.arch, norm_cfg=cfg)


class TestNormAndPad:
    def make(self):
        norm = nn.BatchNorm2d(3).double()
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.data.uniform_(0.5, 2.0)
        return NormAndPad(norm)

    def test_eval(self):
        """As if the norm had been given a map padded with zeros."""
        pad, x = self.make().eval(), torch.randn(4, 3, 5, 6, dtype=DOUBLE)
        torch.testing.assert_close(pad(x), pad.bn(F.pad(x, [1] * 4)))

    def test_training(self):
        """The same with the statistics of the batch, without the padding."""
        pad, x = self.make().train(), torch.randn(4, 3, 5, 6, dtype=DOUBLE) + 3
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
        weight, bias = (p.view(1, 3, 1, 1) for p in (pad.bn.weight, pad.bn.bias))
        expected = (F.pad(x, [1] * 4) - mean) / (var + 1e-5).sqrt() * weight + bias
        torch.testing.assert_close(pad(x), expected)
        # twice the same, as activation checkpointing needs it, though the running statistics moved
        assert torch.equal(pad(x), pad(x))

    def test_no_gradient_through_the_border(self):
        pad, x = self.make(), torch.randn(4, 3, 5, 6, dtype=DOUBLE, requires_grad=True)
        out = pad(x)
        inner = out[:, :, 1:-1, 1:-1]
        weight = torch.randn_like(inner)
        (expected,) = torch.autograd.grad((pad.bn(x) * weight).sum(), x)
        (grad,) = torch.autograd.grad((inner * weight).sum() + out[:, :, 0].square().sum(), x)
        torch.testing.assert_close(grad, expected)


def test_spiking_pooling():
    """Mean over positions, a neuron, mean over time."""
    x = torch.rand(6, 5, 3, 4, dtype=DOUBLE) * 4
    (got,) = SpikingPooling(T=2)((x,))
    spikes = LIF(T=2)(x.mean((2, 3)))
    assert got.shape == (3, 5) and 0 < got.mean() < 1
    assert torch.equal(got, (spikes[:3] + spikes[3:]) / 2)
