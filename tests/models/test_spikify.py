"""Spikify on backbones of the three libraries."""

import copy

import mmdet.models  # noqa: F401  registers
import mmpretrain.models  # noqa: F401
import mmseg.models  # noqa: F401
import pytest
import torch
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from mmpretrain.models.utils.sparse_modules import SparseHelper
from torch import nn

from mmsnn import get_time_steps, set_time_steps
from mmsnn.layers import TimeFoldingError, unfold
from mmsnn.models import Spikify, spikify
from mmsnn.neurons import LIF, PLIF, Neuron

BACKBONES = {
    'mmdet.ResNet': dict(depth=18, base_channels=8, norm_eval=False),
    'mmpretrain.MobileNetV2': dict(widen_factor=0.25, out_indices=(2, 4, 7)),
    'mmpretrain.ConvNeXt': dict(arch=dict(depths=[1, 1, 2, 1], channels=[8, 16, 24, 32]), out_indices=(1, 3)),
    'mmpretrain.RegNet': dict(arch='regnetx_400mf', out_indices=(0, 3)),
    'mmseg.ResNetV1c': dict(depth=18, base_channels=8, stem_channels=8, dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1)),
}
every_backbone = pytest.mark.parametrize('kind', BACKBONES)


def build(kind, **kwargs):
    return Spikify(dict(type=kind, **BACKBONES[kind]), **{'T': 2, **kwargs})


def plain(kind):
    return ROOT_MODELS.build(dict(type=kind, **BACKBONES[kind]))


class TestBackbones:
    @every_backbone
    def test_keys_stay_and_weights_load(self, kind):
        ann, model = plain(kind), build(kind)
        assert list(model.state_dict()) == list(ann.state_dict())
        assert [n for n, _ in model.named_parameters()] == [n for n, _ in ann.named_parameters()]
        for parameter in ann.parameters():
            parameter.data.normal_()
        model.load_state_dict(ann.state_dict())
        for name, value in ann.state_dict().items():
            assert torch.equal(model.state_dict()[name], value)

    @every_backbone
    def test_everything_spikes(self, kind):
        ann, model = plain(kind), build(kind).eval()
        kinds = (nn.ReLU, nn.ReLU6, nn.GELU)
        names = [n for n, m in ann.named_modules() if isinstance(m, kinds)]
        inner = dict(model.backbone.named_modules())
        assert names and all(type(inner[n]) is LIF and inner[n].T == 2 for n in names)
        assert not any(isinstance(m, kinds) for m in model.modules())

    @every_backbone
    def test_outputs_are_shaped_as_the_anns(self, kind):
        ann, model = plain(kind), build(kind)
        ann.train(False)
        x = torch.randn(3, 3, 64, 64)
        expected = [out.shape for out in ann(x)]
        for frames in (x, x.unsqueeze(1).expand(3, 2, 3, 64, 64)):
            assert [out.shape for out in model.eval()(frames)] == expected

    @every_backbone
    def test_learned_neurons_are_one_a_use(self, kind):
        ann, model = plain(kind), build(kind, neuron=dict(type='PLIF'))
        uses = []
        for module in ann.modules():
            if isinstance(module, (nn.ReLU, nn.ReLU6, nn.GELU)):
                module.register_forward_hook(lambda *_: uses.append(1))
        x = torch.randn(3, 3, 64, 64)
        ann(x)
        neurons = [m for m in model.modules() if isinstance(m, Neuron)]
        assert len(neurons) == len(uses) and len(set(map(id, neurons))) == len(neurons)
        missing = model.load_state_dict(ann.state_dict(), strict=False).missing_keys
        assert len(missing) == len(neurons) and all(key.endswith('.w') for key in missing)
        calls = []
        for neuron in neurons:
            neuron.register_forward_hook(lambda module, *_: calls.append(module))
        sum(out.sum() for out in model.train()(x)).backward()
        assert sorted(map(id, calls)) == sorted(map(id, neurons))
        # DDP wants a gradient at every parameter
        assert all(neuron.w.grad is not None for neuron in neurons)

    def test_readouts(self):
        x = torch.randn(3, 3, 64, 64)
        model = build('mmdet.ResNet').eval()
        steps = copy.deepcopy(model)
        steps.readout.mode = 'none'
        for rate, out in zip(model(x), steps(x)):
            assert out.shape[0] == 6
            torch.testing.assert_close(unfold(out, 2).mean(0), rate)
        assert get_time_steps(set_time_steps(model, 5)) == 5
        assert build('mmdet.ResNet', readout='none').readout.mode == 'none'

    def test_equals_the_hand_made_network(self, lively):
        """mmdet's ResNet with neurons for ReLUs is our Spiking-ResNet."""
        from mmsnn.models import SpikingResNet

        ours = lively(SpikingResNet(18, T=2, base_channels=8)).eval()
        model = build('mmdet.ResNet', neuron=dict(type='LIF')).eval()
        model.load_state_dict(ours.state_dict())
        frames = torch.randn(3, 2, 3, 64, 64)
        for a, b in zip(ours(frames), model(frames)):
            assert a.std() > 0.1 and torch.equal(a, b)


class TestSharedActivations:
    """mmdet's blocks use one ReLU several times."""

    @pytest.mark.parametrize('depth', [18, 50])
    def test_order_survives_checkpointing_and_errors(self, depth, lively):
        """Checkpointing repeats some of the uses of a block's ReLU in the backward pass, but not the last one."""
        cfg = dict(type='mmdet.ResNet', depth=depth, base_channels=8, norm_eval=False)
        torch.manual_seed(1)
        model = Spikify(dict(cfg), T=2, neuron=dict(type='PLIF'))
        for parameter in model.parameters():
            if parameter.dim() == 0:
                parameter.data.normal_()
        lively(model).double()
        checkpointed = Spikify(dict(cfg, with_cp=True), T=2, neuron=dict(type='PLIF'))
        checkpointed.double().load_state_dict(model.state_dict())

        def gradients(network):
            network.zero_grad()
            sum(out.sum() for out in network.train()(x)).backward()
            return {n: p.grad.clone() for n, p in network.named_parameters()}

        for _ in range(2):
            x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
            expected, got = gradients(model), gradients(checkpointed)
            for name in expected:
                torch.testing.assert_close(expected[name], got[name])
        expected = model.eval()(x)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError):
            # between the uses of a ReLU
            patch.setattr(model.backbone.layer2[0].conv2, 'groups', 3)
            model(x)
        assert all(torch.equal(a, b) for a, b in zip(expected, model(x)))

    def test_one_module_under_two_names(self):
        """mmseg's MixFFN keeps its activation twice."""
        cfg = dict(type='mmseg.MixVisionTransformer', embed_dims=8, num_layers=[1, 1, 1, 1], num_heads=[1, 1, 1, 1])
        model = Spikify(cfg, T=2, neuron=dict(type='PLIF'))
        ffn = model.backbone.layers[0][1][0].ffn
        assert isinstance(ffn.activate, PLIF) and ffn.layers[2] is ffn.activate
        sum(out.sum() for out in model(torch.randn(3, 3, 64, 64))).backward()
        assert all(m.w.grad is not None for m in model.modules() if isinstance(m, PLIF))

    def test_frames_with_two_channels(self):
        model = Spikify(
            dict(type='mmdet.ResNet', depth=18, base_channels=8, in_channels=2), T=2, neuron=dict(type='PLIF')
        )
        assert len(model(torch.randn(3, 2, 2, 32, 32))) == 4


class TestReport:
    @pytest.fixture
    def said(self, monkeypatch):
        lines = []
        monkeypatch.setattr(spikify, 'print_log', lambda text, **_: lines.append(text))
        return lines

    def test_counts(self, said):
        build('mmdet.ResNet')
        assert said == ["Spikify ResNet: {'ReLU': 9} became LIF, nothing stayed analog"]

    @pytest.mark.parametrize(
        'backbone, analog',
        [
            # the gate of every squeeze-and-excitation
            (dict(type='mmpretrain.MobileNetV3', arch='small'), "{'HSigmoid': 9}"),
            (dict(type='mmpretrain.EfficientNet', arch='es'), 'nothing'),
            (dict(type='mmpretrain.SEResNet', depth=50, base_channels=16), "{'Sigmoid': 16}"),
        ],
        ids=['MobileNetV3', 'EfficientNet', 'SEResNet'],
    )
    def test_what_stays_analog(self, said, backbone, analog):
        Spikify(backbone, T=2)
        assert said[0].endswith(f'{analog} stayed analog')

    def test_refuses_where_nothing_changes(self):
        @ROOT_MODELS.register_module(name='BackboneWithoutActivations')
        class Linear(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 1)

        try:
            with pytest.raises(ValueError, match='backbone.backbone: Linear has no activation module that could spike'):
                Spikify(dict(type='BackboneWithoutActivations'), T=2)
        finally:
            ROOT_MODELS.module_dict.pop('BackboneWithoutActivations')

    def test_errors(self):
        with pytest.raises(ValueError, match='backbone.T must be at least 1'):
            build('mmdet.ResNet', T=0)
        with pytest.raises(ValueError, match="readout must be one of mean, none, got 'sum'"):
            build('mmdet.ResNet', readout='sum')
        with pytest.raises(KeyError, match="'Lif' is not registered"):
            build('mmdet.ResNet', neuron=dict(type='Lif'))
        with pytest.raises(ValueError, match='hold 3 time steps, the backbone has T=2'):
            build('mmdet.ResNet')(torch.zeros(2, 3, 3, 32, 32))


class TestConfig:
    @pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmpretrain'])
    def test_types_under_every_scope(self, scope):
        cfg = dict(
            type='mmsnn.Spikify',
            backbone=dict(type='mmdet.ResNet', depth=18, base_channels=8),
            T=2,
            neuron=dict(type='IF'),
        )
        with DefaultScope.overwrite_default_scope(scope):
            model = ROOT_MODELS.build(cfg)
        assert type(model.backbone).__module__.startswith('mmdet.') and type(model.layer1[0].relu).__name__ == 'IF'

    def test_initialisation(self, tmp_path):
        """``init_cfg`` on the wrapper reaches the inner backbone."""
        ann = plain('mmdet.ResNet')
        for parameter in ann.parameters():
            parameter.data.normal_()
        file = tmp_path / 'ann.pth'
        torch.save(dict(state_dict=ann.state_dict()), file)
        init_cfg = dict(type='Pretrained', checkpoint=str(file))
        outer = build('mmdet.ResNet', init_cfg=init_cfg)
        inner = Spikify(dict(type='mmdet.ResNet', **BACKBONES['mmdet.ResNet'], init_cfg=init_cfg), T=2)
        for model in (outer, inner):
            model.init_weights()
            assert all(torch.equal(v, ann.state_dict()[k]) for k, v in model.state_dict().items())


def test_out_channels_are_those_of_the_maps():
    model = Spikify(dict(type='mmdet.ResNet', depth=18, base_channels=8, out_indices=(1, 3)), T=2).train()
    assert model.out_channels == (16, 64)
    assert model.out_channels == tuple(out.shape[1] for out in model(torch.randn(3, 3, 32, 32)))
    assert model.double().out_channels == (16, 64)
    assert model.training


@pytest.fixture
def register():
    """Registers a backbone for a test."""
    names = []

    def add(cls):
        ROOT_MODELS.register_module(name=cls.__name__, module=cls)
        names.append(cls.__name__)
        return dict(type=cls.__name__)

    yield add
    for name in names:
        ROOT_MODELS.module_dict.pop(name)


SWIN_V2 = dict(
    type='mmpretrain.SwinTransformerV2',
    arch=dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], extra_norm_every_n_blocks=0),
    img_size=64,
    window_size=2,
)
OTHERS = {
    # a class token and a distillation token in a nested tuple; one size of image
    'DeiT': dict(type='mmpretrain.DistilledVisionTransformer', arch='deit-t', img_size=32, patch_size=16),
    'SwinV2': SWIN_V2,
    # changes its maps in place; sizes that are no multiple of 64 do not do
    'DDRNet': dict(type='mmseg.DDRNet', channels=8, ppm_channels=8),
    'LeNet': dict(type='mmpretrain.LeNet5'),
    'ICNet': dict(
        type='mmseg.ICNet',
        backbone_cfg=dict(type='mmseg.ResNetV1c', depth=18, dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1)),
        layer_channels=(128, 512),
        light_branch_middle_channels=8,
        psp_out_channels=16,
        out_channels=(8, 16, 16),
    ),
    'MobileNetV3': dict(type='mmpretrain.MobileNetV3', arch='small'),
    'SegNeXt': dict(type='mmseg.MSCAN', embed_dims=[8, 8, 8, 8], depths=[1, 1, 1, 1], norm_cfg=dict(type='BN')),
}


def flat(out):
    """The tensors of an output."""
    return [out] if isinstance(out, torch.Tensor) else [t for o in out if o is not None for t in flat(o)]


class TestUnusualBackbones:
    @pytest.mark.parametrize('kind', [k for k in OTHERS if k != 'LeNet'])
    def test_trains_and_keeps_images_apart(self, kind):
        torch.manual_seed(0)
        model = Spikify(OTHERS[kind], T=2, balance=0.2)
        size = OTHERS[kind].get('img_size', 64)
        x = torch.randn(3, 3, size, size)
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                # one batch's statistics serve the evaluation
                norm.momentum = 1.0
        outs = flat(model.train()(x))
        assert all(len(out) == 3 for out in outs)
        sum((out * torch.randn_like(out)).sum() for out in outs).backward()
        first = next(p for p in model.parameters() if p.grad is not None)
        assert first.grad.isfinite().all() and first.grad.any()
        other = x.clone()
        other[1].normal_()
        with torch.no_grad():
            before, after = flat(model.eval()(x)), flat(model(other))
        for a, b in zip(before, after):
            torch.testing.assert_close(a[::2], b[::2])
        assert any(not torch.equal(a[1], b[1]) for a, b in zip(before, after))

    def test_out_channels_at_the_size_that_it_takes(self):
        model = Spikify(
            dict(type='mmpretrain.DistilledVisionTransformer', arch='deit-t', img_size=32, patch_size=16), T=2
        )
        assert model.blank_size == 32 and model.out_channels == (192, 192)

    def test_tanh_is_none_that_could_spike(self):
        with pytest.raises(ValueError, match='LeNet5 has no activation module that could spike'):
            Spikify(OTHERS['LeNet'], T=2)

    def test_positions_stay_analog(self, monkeypatch):
        said = []
        monkeypatch.setattr(spikify, 'print_log', lambda text, **_: said.append(text))
        model = Spikify(SWIN_V2, T=2)
        named = {name: type(m) for name, m in model.backbone.named_modules() if isinstance(m, (nn.ReLU, LIF))}
        positions = {name for name in named if 'cpb_mlp' in name}
        assert len(positions) == 4 and {name for name, kind in named.items() if kind is nn.ReLU} == positions
        assert 'those that see no images: ' in said[0] and 'cpb_mlp' in said[0] and 'and 1 more' in said[0]

    def test_nested_outputs(self, register):
        class Nested(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.relu = nn.Conv2d(3, 4, 1), nn.ReLU()

            def forward(self, x, scale=None, mode=''):
                x = self.relu(self.conv(x))
                x = x if scale is None else x * scale.view(-1, 1, 1, 1)
                return x, [x.mean((2, 3)), None], dict(maps=(x,)), mode, torch.arange(2).expand(len(x), 2)

        model = Spikify(register(Nested), T=2).eval()
        x = torch.randn(3, 3, 8, 8)
        maps, (vector, none), named, mode, ids = model(x, mode='loss')
        assert maps.shape == (3, 4, 8, 8) and vector.shape == (3, 4) and none is None and mode == 'loss'
        assert torch.equal(named['maps'][0], maps) and torch.equal(ids, torch.arange(2).expand(3, 2))
        # one factor an image, at every step
        scaled = model(x, torch.tensor([1.0, 2.0, 3.0]))[0]
        torch.testing.assert_close(scaled, maps * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1))

    def test_what_cannot_be_read_out(self, register):
        class Odd(nn.Module):
            def __init__(self, random=False):
                super().__init__()
                self.conv, self.relu, self.random = nn.Conv2d(3, 4, 1), nn.ReLU(), random

            def forward(self, x):
                x = self.relu(self.conv(x))
                return (x, torch.empty(len(x), 50).random_(99).long()) if self.random else x.flatten(2).permute(2, 0, 1)

        cfg, x = register(Odd), torch.randn(3, 3, 8, 8)
        with pytest.raises(ValueError, match=r'Odd returns \(64, 6, 4\), which does not hold 2 time steps of 3 images'):
            Spikify(cfg, T=2)(x)
        with pytest.raises(ValueError, match='Odd returns integers that differ between time steps'):
            Spikify({**cfg, 'random': True}, T=2)(x)

    @pytest.mark.parametrize('kind', ['MAEViT', 'MFFViT', 'MILANViT'])
    def test_masked_pretraining(self, kind):
        """An image keeps its mask in all time steps; what is no output of the images passes as it is."""
        arch = dict(embed_dims=12, num_layers=6, num_heads=2, feedforward_channels=24)
        cfg = dict(type=f'mmpretrain.{kind}', arch=arch, img_size=32, patch_size=8, mask_ratio=0.5)
        # as many as the rows of folded images
        more = dict(out_indices=[0, 1, 2, 3, 4, 5]) if kind == 'MFFViT' else {}
        model = Spikify(dict(**cfg, **more), T=2).train()
        x, seen = torch.randn(3, 3, 32, 32), []
        model.backbone.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(unfold(inputs[0], 2)))
        importance = [torch.rand(3, 16)] if kind == 'MILANViT' else []
        outs = model(x, *importance)
        latent, restore = outs[0], outs[1 if importance else 2]
        assert latent.shape == (3, 9, 12) and torch.equal(restore.sort(1)[0], torch.arange(16).expand(3, 16))
        assert not torch.equal(restore[0], restore[1])
        steps = seen[-1]
        assert torch.equal(steps[0], steps[1])
        if kind == 'MFFViT':
            assert torch.equal(outs[3], torch.full((6,), 1 / 6))
            return
        # without masks all tokens are there; mmpretrain's MFFViT masks always
        assert model.eval()(x, None)[0].shape[0] == 3 and seen[-1].shape[2] == 17

    def test_mask_that_lies_outside(self):
        """SparK's layers take their mask from a class attribute."""
        cfg = dict(type='mmpretrain.SparseResNet', depth=50, out_indices=(0, 1, 2, 3), base_channels=8, stem_channels=8)
        model = Spikify(dict(cfg, norm_cfg=dict(type='mmpretrain.SparseBatchNorm2d')), T=2).train()
        mask = torch.zeros(3, 1, 2, 2, dtype=torch.bool)
        mask[0, :, 0], mask[1, :, 1], mask[2] = True, True, True
        try:
            SparseHelper._cur_active = mask
            outs = model(torch.randn(3, 3, 64, 64))
            assert SparseHelper._cur_active is mask
        finally:
            SparseHelper._cur_active = None
        shown = mask.expand(3, outs[3].shape[1], 2, 2)
        assert outs[3].shape[0] == 3 and not outs[3][~shown].any() and outs[3][shown].any()

    def test_hosts_that_change_maps_in_place(self, register):
        class InPlace(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.first, self.second = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.ReLU()

            def forward(self, x):
                x = self.conv(x)
                out = self.first(x)
                x += 1
                out *= 2
                return out + self.second(x)

        model = Spikify(register(InPlace), T=2).train()
        x = torch.randn(3, 3, 8, 8) * 3
        model(x).sum().backward()
        assert model.conv.weight.grad.any()
        # the same by hand
        y = model.conv(x.repeat(2, 1, 1, 1))
        first, second = LIF(2), LIF(2)
        torch.testing.assert_close(model(x), unfold(first(y) * 2 + second(y + 1), 2).mean(0))

    def test_functions_are_reported(self, register, monkeypatch):
        class Functional(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 1)

            def forward(self, x):
                return nn.functional.relu(torch.relu(self.conv(x)))

        with pytest.raises(ValueError, match=r'cannot be replaced \(2 calls of relu\)'):
            Spikify(register(Functional), T=2)

    def test_layers_called_past_the_encoder(self):
        cfg = copy.deepcopy(OTHERS['ICNet'])
        cfg['backbone_cfg'].update(type='mmsnn.SEWResNet', deep_stem=True, T=2)
        model = ROOT_MODELS.build(cfg)
        with pytest.raises(TimeFoldingError, match='ICNet.*mmsnn.Spikify'):
            model(torch.randn(2, 3, 64, 64))


class TestSilence:
    @pytest.fixture
    def said(self, monkeypatch):
        lines = []
        monkeypatch.setattr(spikify, 'print_log', lambda text, **_: lines.append(text))
        return lines

    def test_is_told_once(self, said):
        model = Spikify(dict(type='mmpretrain.VGG', depth=11), T=2)
        model.init_weights()
        said.clear()
        model(torch.zeros(2, 3, 32, 32))
        assert not said, 'a blank image tells nothing'
        model(torch.randn(2, 3, 32, 32))
        assert 'Spikify VGG: 7 of 8 layers of neurons were silent in the first batch (features.2' in said[0]
        assert 'balance=True' in said[0]
        model(torch.randn(2, 3, 32, 32))
        assert len(said) == 1

    def test_is_not_told_where_neurons_fire(self, said, lively):
        model = lively(build('mmdet.ResNet'), torch.randn(3, 3, 64, 64))
        said.clear()
        model(torch.randn(2, 3, 64, 64))
        assert not said
