"""Spiking-ResNet: as SpikingJelly's, with the names and the geometry of OpenMMLab's."""

import inspect

import mmdet.models
import mmpretrain.models
import mmseg.models
import pytest
import torch
import torchvision
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmsnn import set_time_steps
from mmsnn.layers import fold, unfold
from mmsnn.models import SEWResNet, SpikingResNet
from mmsnn.neurons import Neuron

RESNETS = dict(mmdet=mmdet.models.ResNet, mmseg=mmseg.models.ResNet, mmpretrain=mmpretrain.models.ResNet)


def small(depth=18, T=2, **kwargs):
    return SpikingResNet(depth, T=T, **{'base_channels': 8, **kwargs})


def geometry(model):
    """Where each convolution stands and how it strides."""
    return {
        name: (m.in_channels, m.out_channels, m.kernel_size, m.stride, m.padding, m.dilation, m.bias is not None)
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d)
    }


class TestSpikingJelly:
    @pytest.mark.parametrize('depth', [18, 34, 50, 101, 152])
    def test_equal_in_all_stages(self, depth, spiking_jelly, lively):
        model = lively(SpikingResNet(depth, T=2, readout='none'), torch.randn(3, 3, 64, 64)).eval()
        theirs = spiking_jelly('spiking_resnet', depth, model)
        frames = torch.randn(3, 2, 3, 64, 64)
        with torch.no_grad():
            expected, got = theirs(frames.transpose(0, 1)), model(frames)
        assert len(got) == 4
        for stage, (g, e) in enumerate(zip(got, expected)):
            assert e.std() > 0.1, f'stage {stage + 1} is silent'
            assert torch.equal(unfold(g, 2), e), f'stage {stage + 1}'

    def test_image_is_presented_in_every_step(self, spiking_jelly, lively):
        """In double precision: the stem runs once here and T times there, which may round differently."""
        model = lively(SpikingResNet(18, T=4)).eval().double()
        theirs = spiking_jelly('spiking_resnet', 18, model)
        x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
        with torch.no_grad():
            expected, got = theirs(x.expand(4, *x.shape)), model(x)
        for g, e in zip(got, expected):
            torch.testing.assert_close(g, e.mean(0))

    def test_gradients_are_equal(self, spiking_jelly, lively):
        model = lively(SpikingResNet(18, T=2, base_channels=64, readout='none'))
        theirs = spiking_jelly('spiking_resnet', 18, model)
        frames = torch.randn(3, 2, 3, 32, 32)
        for outs in (model.train()(frames), theirs.train()(frames.transpose(0, 1))):
            sum(out.mean() for out in outs).backward()
        expected = dict(theirs.model.named_parameters())
        for name, parameter in model.named_parameters():
            assert parameter.grad.abs().sum() > 0
            torch.testing.assert_close(
                parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f'{name}: {text}'
            )


class TestNames:
    @pytest.mark.parametrize('kind', [SpikingResNet, SEWResNet])
    @pytest.mark.parametrize('depth', [18, 50])
    def test_torchvision(self, kind, depth):
        theirs = getattr(torchvision.models, f'resnet{depth}')(weights=None).state_dict()
        model = kind(depth, T=2)
        result = model.load_state_dict(theirs, strict=False)
        assert result.missing_keys == [] and result.unexpected_keys == ['fc.weight', 'fc.bias']
        assert torch.equal(model.layer2[0].conv1.weight, theirs['layer2.0.conv1.weight'])
        assert set(model.state_dict()) == {k for k in theirs if not k.startswith('fc.')}

    def test_only_what_neurons_learn_is_missing(self):
        theirs = mmdet.models.ResNet(18, base_channels=8).state_dict()
        result = small(neuron=dict(type='PLIF')).load_state_dict(theirs, strict=False)
        assert result.unexpected_keys == []
        # the stem, and two sites a block
        assert len(result.missing_keys) == 1 + 2 * 8
        assert all(key.split('.')[-2].startswith('neuron') and key.endswith('.w') for key in result.missing_keys)

    GEOMETRIES = [
        (RESNETS, dict()),
        (RESNETS, dict(style='caffe')),
        (RESNETS, dict(num_stages=3, strides=(1, 2, 1), dilations=(1, 1, 2), out_indices=(2,))),
        # mmpretrain's have other names than the two others
        (('mmdet', 'mmseg'), dict(deep_stem=True)),
        (('mmdet', 'mmseg'), dict(deep_stem=True, avg_down=True)),
        (('mmseg',), dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), contract_dilation=True, deep_stem=True)),
        (('mmseg',), dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), multi_grid=True)),
    ]

    @pytest.mark.parametrize(
        'library, settings', [(name, settings) for names, settings in GEOMETRIES for name in names], ids=str
    )
    @pytest.mark.parametrize('depth', [18, 50])
    def test_openmmlab(self, library, depth, settings):
        settings = dict(settings)
        if 'multi_grid' in settings:
            settings['multi_grid'] = (1, 2, 4)[: 2 if depth == 18 else 3]
        theirs = RESNETS[library](depth, base_channels=8, stem_channels=8, **settings)
        ours = small(depth, **settings)
        assert geometry(ours) == geometry(theirs)
        assert set(ours.state_dict()) == set(theirs.state_dict())
        x = torch.zeros(2, 3, 64, 64)
        with torch.no_grad():
            # theirs returns nothing from eval()
            theirs.train(False)
            shapes = [[o.shape for o in model(x)] for model in (ours.eval(), theirs)]
        if 'out_indices' not in settings:
            # mmpretrain returns the last stage alone
            shapes[0] = shapes[0][-len(shapes[1]) :]
        assert shapes[0] == shapes[1]


def keywords(cls):
    return [k for k in inspect.signature(cls.__init__).parameters if k != 'self']


class TestKeywords:
    # values as they stand in configs, other than ours
    GIVEN = dict(
        depth=18,
        # of no stage
        dcn=dict(type='DCN', deform_groups=1),
        stem_channels=16,
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        out_indices=(1, 3),
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        conv_cfg=dict(type='Conv2d'),
        multi_grid=(1, 2),
        expansion=1,
        pretrained='torchvision://resnet18',
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18'),
        in_channels=2,
        base_channels=16,
        num_stages=4,
        style='caffe',
        frozen_stages=1,
    )

    @pytest.mark.parametrize('kind', [SpikingResNet, SEWResNet])
    @pytest.mark.parametrize('library', RESNETS)
    def test_each_is_accepted(self, kind, library):
        parameters = inspect.signature(RESNETS[library].__init__).parameters
        for name in keywords(RESNETS[library]):
            default = parameters[name].default
            value = self.GIVEN.get(name, not default if isinstance(default, bool) else default)
            model = kind(**{'depth': 18, 'base_channels': 8, name: value})
            if hasattr(model, name) and name not in ('init_cfg', 'norm_cfg'):
                assert getattr(model, name) == value, name

    def test_harmless_values_pass(self):
        SpikingResNet(18, base_channels=8, dcn=None, stage_with_dcn=(False,) * 4, plugins=[], drop_path_rate=0.0)

    def test_unknown(self):
        with pytest.raises(TypeError, match='dept'):
            SpikingResNet(18, dept=4)

    @pytest.mark.parametrize(
        'settings, match',
        [
            (dict(depth=21), 'backbone.depth must be one of 18, 34, .*, got 21'),
            (dict(T=0), 'backbone.T must be at least 1'),
            (dict(stem='tiny'), "backbone.stem must be 'imagenet'"),
            (dict(stem='cifar', deep_stem=True), 'without deep_stem'),
            (dict(num_stages=3), 'backbone.num_stages=3 needs as many strides'),
            (dict(num_stages=5, strides=(1,) * 5, dilations=(1,) * 5), 'backbone.num_stages=5'),
            (dict(strides=(1, 2, 2)), 'needs as many strides and dilations'),
            (dict(out_indices=(4,)), r'backbone.out_indices must name stages 0 to 3, got \(4,\)'),
            (dict(out_indices=()), 'backbone.out_indices'),
            (dict(out_indices=(-5,)), 'backbone.out_indices'),
            (dict(out_indices=4), 'backbone.out_indices must name stages 0 to 3, got 4'),
            (dict(frozen_stages=5), 'backbone.frozen_stages must lie in -1 to 4, got 5'),
            (dict(drop_path_rate=1.0), 'backbone.drop_path_rate=1.0 must lie in 0 to 1'),
            (dict(drop_path_rate=0.1, packed_spikes=True), 'can then not be packed'),
            (dict(readout='last'), "readout must be one of mean, none, got 'last'"),
            (dict(pretrained='a.pth', init_cfg=dict(type='Pretrained', checkpoint='b.pth')), 'exclude each other'),
        ],
    )
    def test_errors(self, settings, match):
        with pytest.raises(ValueError, match=match):
            SpikingResNet(**{'depth': 18, 'base_channels': 8, **settings})

    def test_neuron_errors(self):
        with pytest.raises(KeyError, match="'Lif' is not registered"):
            small(neuron=dict(type='Lif'))
        with pytest.raises(ValueError, match='surrogate must be one of'):
            small(neuron=dict(type='LIF', surrogate='Atan'))


MERGED = {
    'mmdet::_base_/models/retinanet_r50_fpn.py': 'model.backbone',
    'mmdet::_base_/models/faster-rcnn_r50-caffe-c4.py': 'model.backbone',
    'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py': 'model.backbone',
    'mmseg::_base_/models/fcn_r50-d8.py': 'model.backbone',
    'mmseg::_base_/models/deeplabv3plus_r50-d8.py': 'model.backbone',
    'mmseg::_base_/models/upernet_r50.py': 'model.backbone',
    'mmpretrain::_base_/models/resnet50.py': 'model.backbone',
    'mmpretrain::_base_/models/resnetv1d50.py': 'model.backbone',
    'mmpretrain::_base_/models/resnet18_cifar.py': 'model.backbone',
}


class TestMerging:
    """A user changes the type, the depth and T of a backbone that is there, and inherits the rest."""

    @pytest.mark.parametrize('base', MERGED)
    @pytest.mark.parametrize('kind', ['SEWResNet', 'SpikingResNet'])
    def test_over_an_existing_backbone(self, base, kind, tmp_path):
        child = tmp_path / 'child.py'
        child.write_text(
            f'_base_ = {base!r}\n'
            f"model = dict(backbone=dict(_delete_=False, type='mmsnn.{kind}', depth=34, T=4, base_channels=8))"
        )
        inherited = get_config(base).model.backbone
        backbone = Config.fromfile(child).model.backbone
        with DefaultScope.overwrite_default_scope(base.split('::')[0]):
            model = ROOT_MODELS.build(backbone)
        assert type(model).__name__ == kind and model.T == 4 and model.depth == 34
        for key in inherited.keys() - {'type', 'depth', 'init_cfg', 'norm_cfg'}:
            assert getattr(model, key) == inherited[key], key
        assert len(model.out_channels) == len(inherited.out_indices)

    @pytest.mark.parametrize(
        'checkpoint',
        [
            'torchvision://resnet50',
            'open-mmlab://resnet50_v1c',
            'open-mmlab://detectron2/resnet50_caffe',
            'https://a.b/resnet50_8xb32.pth',
        ],
    )
    def test_checkpoint_of_another_depth_is_refused(self, checkpoint):
        for inherited in (dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint)), dict(pretrained=checkpoint)):
            model = small(34, **inherited)
            with pytest.raises(ValueError, match='loads .*resnet50.* but backbone.depth=34.*checkpoint of that depth'):
                model.init_weights()

    def test_every_unknown_key_is_named(self):
        with pytest.raises(TypeError, match=r'backbone.arch, backbone.embed_dims: \w+ has no such key'):
            small(arch='4-256', embed_dims=256)


class TestForward:
    @pytest.mark.parametrize('T', [1, 2, 4])
    def test_shapes(self, T):
        model = small(T=T).eval()
        for x in (torch.randn(3, 3, 64, 64), torch.randn(3, T, 3, 64, 64)):
            assert [tuple(o.shape) for o in model(x)] == [(3, 8 * 2**i, 16 // 2**i, 16 // 2**i) for i in range(4)]
        assert model.out_channels == (8, 16, 32, 64)

    def test_bottleneck_widths(self):
        model = small(50, out_indices=(0, 3)).eval()
        assert [o.shape[1] for o in model(torch.randn(3, 3, 32, 32))] == [32, 256]
        assert model.out_channels == (32, 256)

    def test_cifar_stem_keeps_the_size(self):
        model = small(stem='cifar').eval()
        assert [o.shape[-1] for o in model(torch.randn(3, 3, 32, 32))] == [32, 16, 8, 4]
        assert model.conv1.kernel_size == (3, 3) and not hasattr(model, 'maxpool')

    @pytest.mark.parametrize('deep_stem', [False, True])
    def test_event_frames_that_stand_still_equal_the_image(self, deep_stem, lively):
        model = lively(small(deep_stem=deep_stem)).eval().double()
        x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
        for a, b in zip(model(x), model(torch.stack([x, x], 1))):
            torch.testing.assert_close(a, b)

    def test_event_frames_of_another_length(self):
        with pytest.raises(ValueError, match='hold 3 time steps, the backbone has T=2'):
            small()(torch.randn(2, 3, 3, 32, 32))

    def test_stages_spike(self, lively):
        """Neurons follow the addition: what leaves a stage are spikes."""
        model = lively(small(readout='none')).eval()
        for out in model(torch.randn(3, 3, 32, 32)):
            assert set(out.unique().tolist()) == {0.0, 1.0}

    def test_readout_none_is_the_mean_undone(self, lively):
        x = torch.randn(3, 3, 32, 32)
        rates = lively(small(T=4)).eval()(x)
        steps = lively(small(T=4, readout='none')).eval()
        steps.load_state_dict(lively(small(T=4)).state_dict())
        model = small(T=4)
        model.load_state_dict(steps.state_dict())
        rates, outs = model.eval()(x), steps(x)
        for rate, out in zip(rates, outs):
            assert out.shape[0] == 12
            torch.testing.assert_close(unfold(out, 4).mean(0), rate)

    def test_joint_neurons(self):
        model = small(neuron=dict(type='LIF', tau=1.7), joint_neuron=dict(detach_reset=True))
        detached = {n for n, m in model.named_modules() if isinstance(m, Neuron) and m.settings.detach_reset}
        expected = {'neuron1'} | {f'layer{i}.{j}.neuron2' for i in range(1, 5) for j in range(2)}
        assert detached == expected
        assert all(m.settings.tau == 1.7 for m in model.modules() if isinstance(m, Neuron))

    def test_stem_runs_once_for_an_image(self):
        model = small(T=4).eval()
        seen = []
        model.conv1.register_forward_hook(lambda _m, _i, out: seen.append(out.shape[0]))
        model(torch.randn(3, 3, 32, 32))
        model(torch.randn(3, 4, 3, 32, 32))
        assert seen == [3, 12]

    def test_time_steps_may_change(self):
        model = set_time_steps(small(T=2, readout='none').eval(), 5)
        assert model(torch.randn(3, 3, 32, 32))[0].shape[0] == 15
        assert fold(torch.zeros(5, 3)).shape[0] == 15


class TestNorms:
    def test_conversion_to_syncbn_and_back(self, lively):
        """Norms are looked up by name at call time, so that swapping them leaves none behind."""
        model = lively(small()).eval()
        x = torch.randn(3, 3, 32, 32)
        expected = model(x)
        converted = revert_sync_batchnorm(nn.SyncBatchNorm.convert_sync_batchnorm(model))
        assert not any(type(m) is nn.BatchNorm2d for m in converted.modules())
        calls = []
        for module in converted.modules():
            if isinstance(module, _BatchNorm):
                module.register_forward_hook(lambda *_: calls.append(1))
        assert all(torch.equal(a, b) for a, b in zip(converted(x), expected))
        assert len(calls) == sum(isinstance(m, _BatchNorm) for m in converted.modules()) == 20

    def test_group_norm(self):
        model = small(norm_cfg=dict(type='GN', num_groups=4))
        names = {n.rpartition('.')[2] for n, m in model.named_modules() if isinstance(m, nn.GroupNorm)}
        assert names == {'gn1', 'gn2', '1'} and not any(isinstance(m, _BatchNorm) for m in model.modules())
        assert len(model(torch.randn(3, 3, 32, 32))) == 4


class TestTraining:
    @pytest.mark.parametrize('deep_stem', [False, True])
    @pytest.mark.parametrize('frozen', [-1, 0, 1, 4])
    def test_frozen_stages(self, deep_stem, frozen):
        model = small(frozen_stages=frozen, deep_stem=deep_stem, neuron=dict(type='PLIF'))
        assert model.train() is model
        stem = ('stem',) if deep_stem else ('conv1', 'bn1', 'neuron1')
        still = (stem if frozen >= 0 else ()) + tuple(f'layer{i}' for i in range(1, frozen + 1))
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad is (name.split('.')[0] not in still), name
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm):
                assert module.training is (name.split('.')[0] not in still), name

    def test_norm_eval(self):
        model = small(norm_eval=True).train()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        model(torch.randn(3, 3, 32, 32))
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert model.training and not any(m.training for m in model.modules() if isinstance(m, _BatchNorm))
        assert all(m.training for m in small().train().modules() if isinstance(m, _BatchNorm))

    def test_every_parameter_learns(self, lively):
        model = lively(small(neuron=dict(type='PLIF'))).train()
        sum(out.sum() for out in model(torch.randn(3, 3, 32, 32))).backward()
        assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]

    @pytest.mark.parametrize('depth', [18, 50])
    def test_zero_init_residual(self, depth):
        model = small(depth, zero_init_residual=True)
        model.init_weights()
        last = f'bn{2 if depth == 18 else 3}'
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm):
                zero = name.startswith('layer') and name.endswith(last)
                assert (module.weight == 0).all() if zero else (module.weight == 1).all(), name

    def test_freezing_random_stages_is_reported(self, monkeypatch):
        said = []
        monkeypatch.setattr('mmsnn.models.backbones.arguments.print_log', lambda text, **_: said.append(text))
        small(frozen_stages=1, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18'))
        small(frozen_stages=-1)
        assert not said
        small(frozen_stages=1)
        assert 'frozen_stages=1 freezes randomly initialised stages' in said[0]


class TestEncoder:
    def test_poisson(self):
        """Spikes are drawn before the first layer, which then runs at every step."""
        model = SEWResNet(18, T=5, base_channels=8, encoder=dict(type='PoissonEncoder')).eval()
        seen = []
        model.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        image = torch.rand(2, 3, 32, 32)
        outs = model(image)
        assert seen[0].shape == (10, 3, 32, 32) and set(seen[0].unique().tolist()) == {0.0, 1.0}
        assert outs[0].shape[0] == 2

    def test_a_norm_that_tells_steps_apart_sees_them(self):
        model = SEWResNet(18, T=2, base_channels=8, norm_cfg=dict(type='mmsnn.TEBN', T=2)).eval()
        with torch.no_grad():
            model.bn1.p.copy_(torch.tensor([0.0, 1.0]))
        seen = []
        model.neuron1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        model(torch.randn(3, 3, 32, 32))
        first, second = seen[0].chunk(2)
        assert first.shape[0] == 3 and not first.any() and second.any()

    def test_unknown(self):
        with pytest.raises(KeyError, match='NoEncoder'):
            SEWResNet(18, encoder=dict(type='NoEncoder'))


class TestInheritedKeys:
    """What a user keeps who merges our type over a ResNet of another library."""

    BASE = """
        model = dict(
            backbone=dict(type='{kind}', depth=50, norm_cfg=dict(type='SyncBN'), contract_dilation=True),
            auxiliary=dict(type='{kind}', depth=50))
    """

    def read(self, tmp_path, kind, child):
        (tmp_path / 'base.py').write_text(inspect.cleandoc(self.BASE.format(kind=kind)))
        (tmp_path / 'child.py').write_text(f"_base_ = './base.py'\nmodel = dict(backbone={child})\n")
        return Config.fromfile(str(tmp_path / 'child.py')).model

    @pytest.mark.parametrize('kind', ['ResNetV1c', 'mmseg.ResNetV1d', 'ResNet'])
    def test_variant_of_the_replaced_type(self, kind, tmp_path):
        model = self.read(tmp_path, kind, "dict(type='mmsnn.SEWResNet', T=2)")
        implied = dict(ResNetV1c=dict(deep_stem=True), ResNetV1d=dict(deep_stem=True, avg_down=True), ResNet={})[
            kind.rpartition('.')[2]
        ]
        assert {k: v for k, v in model.backbone.items() if k in ('deep_stem', 'avg_down')} == implied
        assert model.backbone.depth == 50 and model.backbone.T == 2
        # nothing else is changed
        assert model.auxiliary == dict(type=kind, depth=50)
        if implied:
            theirs = ROOT_MODELS.build(
                dict(type=f'mmseg.{kind.rpartition(".")[2]}', depth=18, base_channels=8, stem_channels=8)
            )
            ours = SEWResNet(18, T=2, base_channels=8, **implied)
            assert set(ours.state_dict()) == set(theirs.state_dict())

    def test_what_the_child_says_counts(self, tmp_path):
        model = self.read(tmp_path, 'ResNetV1d', "dict(type='mmsnn.SEWResNet', deep_stem=False)")
        assert model.backbone.deep_stem is False and model.backbone.avg_down is True
        model = self.read(tmp_path, 'ResNetV1c', "dict(_delete_=True, type='mmsnn.SEWResNet', depth=18)")
        assert 'deep_stem' not in model.backbone
        model = self.read(tmp_path, 'ResNetV1c', 'dict(depth=101)')
        assert model.backbone.type == 'ResNetV1c' and 'deep_stem' not in model.backbone

    @pytest.mark.parametrize(
        'checkpoint, deep_stem, avg_down',
        [
            ('open-mmlab://resnet18_v1c', True, False),
            ('https://example.org/resnetv1d18_8xb32_in1k.pth', True, True),
            ('torchvision://resnet18', False, False),
        ],
    )
    def test_variant_that_the_checkpoint_names(self, checkpoint, deep_stem, avg_down):
        init_cfg = dict(type='Pretrained', checkpoint=checkpoint)
        for settings in (dict(init_cfg=init_cfg), dict(pretrained=checkpoint)):
            model = small(**settings)
            assert (model.deep_stem, model.avg_down) == (deep_stem, avg_down)
        assert not small(init_cfg=init_cfg, deep_stem=False, avg_down=False).deep_stem

    def test_maps_that_a_run_expects(self):
        """mmpretrain's ResNet returns its last map, and its self-supervised necks take no more."""
        assert small().out_indices == (0, 1, 2, 3)
        for scope, stages in dict(mmpretrain=(3,), mmdet=(0, 1, 2, 3)).items():
            with DefaultScope.overwrite_default_scope(scope):
                assert small().out_indices == stages
                assert small(out_indices=(1, 2)).out_indices == (1, 2)


class TestDropPath:
    @pytest.mark.parametrize('kind', [SpikingResNet, SEWResNet])
    def test_drops_branches_of_images_at_every_step(self, kind, lively):
        torch.manual_seed(0)
        model = lively(kind(18, T=2, base_channels=8, drop_path_rate=0.5, readout='none'))
        seen = []
        for module in model.modules():
            if type(module).__name__ == 'DropPath':
                module.register_forward_hook(lambda _, x, out: seen.append((unfold(x[0], 2), unfold(out, 2))))
        model.train()(torch.randn(4, 3, 32, 32))
        # the rate rises from 0 in the first block, as in mmpretrain
        assert len(seen) == 7
        kept = torch.cat([(out != 0).flatten(2).any(2) for x, out in seen], dim=1)
        assert torch.equal(kept[0], kept[1]) and 0.5 < kept[0].float().mean() < 0.95
        for (x, out), rate in zip(seen, torch.linspace(0, 0.5, 8)[1:]):
            for i, o in zip(x.flatten(0, 1), out.flatten(0, 1)):
                assert not o.any() or torch.allclose(o, i / (1 - rate))
        seen.clear()
        model.eval()(torch.randn(4, 3, 32, 32))
        assert all(torch.equal(x, out) for x, out in seen)

    def test_goes_with_sums_alone(self):
        with pytest.raises(ValueError, match="backbone.drop_path_rate goes with connect='ADD' alone, got 'IAND'"):
            SEWResNet(18, connect='IAND', drop_path_rate=0.1)
