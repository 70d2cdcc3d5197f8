"""Which weights of a file have a place in a model, however their names are wrapped, and what is refused."""

import logging
import re

import mmdet.models
import mmpretrain.models  # noqa: F401  registers
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from tiny import SPIKING, classifier

from mmsnn.checkpoints.fitting import fit, load_weights, match


def build(**backbone):
    return MODELS.build({**SPIKING, **backbone})


def state_of(model):
    """Weights that tell every tensor from every other."""
    generator = torch.Generator().manual_seed(1)
    return {k: torch.rand(v.shape, generator=generator).to(v.dtype) for k, v in model.state_dict().items()}


@pytest.fixture(scope='module')
def backbone():
    return build()


@pytest.fixture(scope='module')
def ann():
    return MODELS.build(dict(type='mmdet.ResNet', depth=18, base_channels=8))


@pytest.fixture(scope='module')
def whole():
    return MODELS.build(classifier(True))


def same(found, expected):
    assert set(found) == set(expected)
    assert all(torch.equal(found[k], v) for k, v in expected.items())


@pytest.fixture
def said():
    """What is logged, with its level."""
    records, handler = [], logging.Handler(logging.INFO)
    handler.emit = lambda record: records.append((record.levelname, record.getMessage()))
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


class TestNames:
    @pytest.mark.parametrize('door', ['start', 'test', 'teacher', 'resume'])
    @pytest.mark.parametrize(
        'wrap',
        [
            lambda k: f'module.{k}',
            lambda k: f'_orig_mod.{k}',
            lambda k: f'module._orig_mod.{k}',
            lambda k: f'_orig_mod.module.{k}',
            # one child was compiled, sharded or made parallel on its own
            lambda k: k.replace('layer1.', 'layer1._orig_mod.'),
            lambda k: k.replace('backbone.', '_fsdp_wrapped_module.backbone._fsdp_wrapped_module.'),
            lambda k: k.replace('layer2.0.', 'layer2.0._checkpoint_wrapped_module.'),
            lambda k: k.replace('backbone.', 'module.backbone.module.'),
        ],
    )
    def test_wrappers(self, whole, wrap, door, said):
        """Such names are the model's own at every door, and nothing needs to be said of them."""
        state = state_of(whole)
        wrapped = {wrap(k): v for k, v in state.items()}
        assert set(wrapped) != set(state)
        same(fit(whole, wrapped, 'file.pth', door), state)
        assert not said

    def test_wrapped_model(self):
        """The other way round: a child of the model is compiled, and the file has plain names."""

        class Compiled(torch.nn.Module):
            def __init__(self, inner):
                super().__init__()
                self._orig_mod = inner

        model = build()
        plain = state_of(model)
        model.layer1 = Compiled(model.layer1)
        model.load_state_dict(fit(model, plain, 'file.pth'), strict=False)
        same({k.replace('_orig_mod.', ''): v for k, v in model.state_dict().items()}, plain)

    def test_containers_called_module_are_no_wrappers(self, backbone):
        """SEW's release keeps convolution and norm in a container of that name."""
        state = state_of(backbone)
        release = {re.sub(r'(layer\d\.\d)\.conv(\d)\.', r'\1.conv\2.module.0.', k): v for k, v in state.items()}
        release = {re.sub(r'(layer\d\.\d)\.bn(\d)\.', r'\1.conv\2.module.1.', k): v for k, v in release.items()}
        release = {re.sub(r'downsample\.(\d)\.', r'downsample.0.module.\1.', k): v for k, v in release.items()}
        found = match({f'module.{k}': v for k, v in release.items()}, backbone)
        same(found.state, state)
        assert 'layout resnet' in found.reading


class TestReadings:
    def test_backbone_of_a_whole_model(self, backbone, whole, said):
        state = state_of(whole)
        found = fit(backbone, state, 'file.pth', 'start')
        same(found, {k.removeprefix('backbone.'): v for k, v in state.items() if k.startswith('backbone.')})
        assert len(said) == 1 and 'the backbone of a whole model' in said[0][1]

    @pytest.mark.parametrize('lead', ['', 'model.'])
    def test_backbone_alone(self, backbone, whole, said, lead):
        """Of a foreign layout or none; the head stays random, and that is said."""
        state = {f'{lead}{k}': v for k, v in state_of(backbone).items()}
        found = fit(whole, state, 'file.pth', 'start', 'load_from')
        same(found, {f'backbone.{k.removeprefix(lead)}': v for k, v in state.items()})
        (level, line), *more = said
        assert level == 'WARNING' and not more
        assert 'stay random: head.fc.weight, head.fc.bias' in line and 'load_from: file.pth' in line

    def test_shapes_that_modules_adapt(self):
        """Position embeddings of another image size are resized by the network itself."""
        arch = dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=16)
        model, larger = (
            MODELS.build(dict(type='mmpretrain.VisionTransformer', arch=arch, img_size=size, patch_size=16))
            for size in (32, 64)
        )
        state = state_of(larger)
        found = fit(model, state, 'file.pth')
        assert found['pos_embed'].shape == model.pos_embed.shape
        model.load_state_dict(found)
        assert larger.pos_embed.shape == (1, 17, 8)


THREE_STAGES = dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,))


def kinds(state, pattern, replacement):
    return {re.sub(pattern, replacement, k): v for k, v in state.items()}


class TestSpikingBackbone:
    """All of it has to be there."""

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            (
                lambda s: kinds(s, 'layer', 'stage'),
                r'lacks weights of SEWResNet \(1 of 20 kernels found\).*it holds s',
            ),
            (lambda s: {f'other.{k}': v for k, v in s.items()}, 'fits nothing in SEWResNet.*holds other.conv1.weight'),
            (lambda s: {k: v for k, v in s.items() if 'layer3' not in k}, 'lacks weights of SEWResNet.*layer3.0'),
            (lambda s: {k: v for k, v in s.items() if k != 'layer4.1.bn2.running_var'}, 'layer4.1.bn2.running_var'),
            (lambda s: {**s, 'conv1.weight': torch.rand(8, 3, 3, 3)}, r'other shapes.*\(8, 3, 3, 3\) instead of'),
            (lambda s: {**s, 'layer1.2.conv1.weight': torch.rand(8, 8, 3, 3)}, 'is a deeper network: layer1.2.conv1'),
        ],
    )
    def test_is_refused(self, backbone, change, message):
        with pytest.raises(ValueError, match=message) as error:
            fit(backbone, change(state_of(backbone)), 'a/file.pth', 'start', 'backbone.init_cfg.checkpoint')
        text = str(error.value)
        assert text.startswith('backbone.init_cfg.checkpoint: a/file.pth ') and 'backbone.init_cfg=None' in text

    def test_names_the_command(self, backbone):
        state = kinds(state_of(backbone), 'layer', 'stage')
        with pytest.raises(ValueError, match='python -m mmsnn convert a/file.pth CONVERTED.pth --config CONFIG'):
            fit(backbone, state, 'a/file.pth', 'start')

    def test_ann(self, backbone, said):
        """The classifier of an ANN has no use; that is one line and no warning."""
        state = state_of(backbone)
        same(fit(backbone, {**state, 'fc.weight': torch.rand(2, 2)}, 'torchvision://resnet18', 'start'), state)
        assert [level for level, _ in said] == ['INFO'] and 'has unused entries: fc.weight' in said[0][1]

    def test_ann_has_no_time_constants(self, backbone, said):
        model = build(neuron=dict(type='PLIF'))
        same(fit(model, state_of(backbone), 'file.pth', 'start'), state_of(backbone))
        assert 'lacks parameters of neurons' in said[0][1] and 'neuron1.w' in said[0][1]
        # tested, it has to be the network that was trained
        task = MODELS.build(classifier(True, neuron=dict(type='PLIF')))
        with pytest.raises(ValueError, match='lacks weights of the backbone of ImageClassifier: backbone.neuron1.w'):
            fit(task, state_of(MODELS.build(classifier(True))), 'file.pth')


class TestOtherModules:
    """May have parts that no file has."""

    def test_new_parts(self, ann, said):
        class Extended(mmdet.models.ResNet):
            pass

        model = Extended(18, base_channels=8)
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
            for block in stage:
                block.conv2.conv_offset = torch.nn.Conv2d(2, 2, 1)
        state = state_of(ann)
        same(fit(model, state, 'file.pth', 'start'), state)
        assert said[0][0] == 'WARNING' and 'layer1.0.conv2.conv_offset.weight' in said[0][1]

    @pytest.mark.parametrize(
        ('cfg', 'absent'),
        [
            # what the configs of the libraries start from
            (dict(type='mmdet.SSDVGG', input_size=300, depth=16), r'features\.3\d'),
            (
                dict(type='mmpretrain.ConvNeXt', arch=dict(depths=[1] * 4, channels=[4] * 4), out_indices=range(4)),
                r'norm[0-2]',
            ),
            (dict(type='mmdet.ResNet', depth=18, base_channels=8, **THREE_STAGES), 'nothing'),
        ],
    )
    def test_partial_files_of_others(self, cfg, absent):
        model = MODELS.build(cfg)
        state = {k: v for k, v in state_of(model).items() if not re.match(absent, k)}
        file = {**state, 'layer4.0.conv1.weight': torch.rand(8, 8, 3, 3), 'head.fc.weight': torch.rand(2, 2)}
        same(fit(model, file, 'file.pth', 'start'), state)

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            (lambda s: kinds(s, r'(layer\d\.\d)\.conv', r'\1.c'), r'4 of 20 kernels found'),
            (lambda s: {k: v for k, v in s.items() if 'layer1' not in k}, r'16 of 20 kernels'),
            (
                lambda s: {k: v for k, v in s.items() if '.1.conv2' not in k and 'layer2.1' not in k},
                r'15 of 20 kernels',
            ),
            (lambda s: {**s, 'layer2.2.conv1.weight': torch.rand(16, 16, 3, 3)}, 'deeper network'),
        ],
    )
    def test_is_refused(self, ann, change, message):
        with pytest.raises(ValueError, match=message):
            fit(ann, change(state_of(ann)), 'file.pth', 'start')


class TestDoors:
    def test_other_classes(self, whole, said):
        """Fine-tuning begins so; nothing else does."""
        state = {**state_of(whole), 'head.fc.bias': torch.rand(7)}
        found = fit(whole, state, 'file.pth', 'start', 'load_from')
        assert set(state) - set(found) == {'head.fc.bias'}
        assert said[0][0] == 'WARNING' and r'head.fc.bias (7,) instead of (5,)' in said[0][1]
        for door in ('test', 'teacher', 'resume'):
            with pytest.raises(
                ValueError, match=r'file.pth has other shapes than ImageClassifier: head.fc.bias \(7,\)'
            ):
                fit(whole, state, 'file.pth', door)

    def test_missing_head(self, whole):
        state = {k: v for k, v in state_of(whole).items() if k != 'head.fc.bias'}
        for door in ('start', 'test'):
            assert 'head.fc.bias' not in fit(whole, state, 'file.pth', door)
        for door in ('teacher', 'resume'):
            with pytest.raises(ValueError, match='lacks weights of ImageClassifier: head.fc.bias'):
                fit(whole, state, 'file.pth', door)

    @pytest.mark.parametrize('key', ['head.fc.bias', 'backbone.bn1.running_var'])
    @pytest.mark.parametrize('bad', [float('nan'), float('inf')])
    def test_failed_trainings(self, whole, key, bad):
        """Neither tested nor taught with; resuming and starting have the check of the training's hook."""
        state = state_of(whole)
        state[key] = state[key].clone()
        state[key][0] = bad
        for door in ('test', 'teacher'):
            with pytest.raises(ValueError, match=f'file.pth holds NaN or infinity in {key}: it comes from a training'):
                fit(whole, state, 'file.pth', door)

    def test_masks_may_be_infinite(self, whole):
        whole.register_buffer('mask', torch.full((2,), -torch.inf))
        assert 'mask' in fit(whole, state_of(whole), 'file.pth', 'test')

    def test_resuming_is_exact(self, whole):
        state = {**state_of(whole), 'neck.x': torch.rand(1)}
        fit(whole, state, 'file.pth', 'teacher')
        with pytest.raises(ValueError, match='holds entries that .* does not have: neck.x.*load_from=file.pth'):
            fit(whole, state, 'file.pth', 'resume', '--resume')
        bare = {k.removeprefix('backbone.'): v for k, v in state_of(whole).items()}
        with pytest.raises(ValueError, match='--resume: file.pth lacks weights'):
            fit(whole, bare, 'file.pth', 'resume', '--resume')


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_types(backbone, tmp_path, dtype):
    state = state_of(backbone)
    torch.save(
        dict(model={k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}), tmp_path / 'a.th'
    )
    model = build()
    load_weights(model, tmp_path / 'a.th')
    assert model.conv1.weight.dtype == torch.float32
    torch.testing.assert_close(model.conv1.weight, state['conv1.weight'], rtol=1e-2, atol=1e-2)
