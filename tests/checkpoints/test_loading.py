"""What mmengine loads, ``init_cfg`` first of all: checked, converted, and read without running anything."""

import os
import re

import mmpretrain.models  # noqa: F401  registers
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.model.weight_init import PretrainedInit
from mmengine.registry import MODELS
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner import load_checkpoint
from tiny import SPIKING, classifier, detector

from mmsnn.checkpoints.loading import anns_are_checked, load_pretrained, safe_reading

ANN = dict(type='mmdet.ResNet', depth=18, base_channels=8)
SPIKIFIED = dict(type='mmsnn.Spikify', T=2, backbone=ANN)


def random_state(model):
    return {k: torch.rand(v.shape).to(v.dtype) for k, v in model.state_dict().items()}


def release(state):
    """Names as SEW's release has them."""
    state = {re.sub(r'(layer\d\.\d)\.conv(\d)\.', r'\1.conv\2.module.0.', k): v for k, v in state.items()}
    state = {re.sub(r'(layer\d\.\d)\.bn(\d)\.', r'\1.conv\2.module.1.', k): v for k, v in state.items()}
    return {re.sub(r'downsample\.(\d)\.', r'downsample.0.module.\1.', k): v for k, v in state.items()}


@pytest.fixture
def file(tmp_path):
    return str(tmp_path / 'weights.pth')


@pytest.fixture
def state():
    return random_state(MODELS.build(SPIKING))


def initialised(cfg, file, **settings):
    model = MODELS.build({**cfg, 'init_cfg': dict(type='Pretrained', checkpoint=file, **settings)})
    model.init_weights()
    return model


def holds(model, state):
    own = model.state_dict()
    return all(torch.equal(own[name], value) for name, value in state.items())


class TestInitCfg:
    @pytest.mark.parametrize('backbone', [SPIKING, SPIKIFIED, dict(type='mmsnn.Resized', size=32, backbone=SPIKING)])
    def test_foreign_layout(self, backbone, file, state):
        torch.save(dict(model=release(state), epoch=3), file)
        assert holds(initialised(backbone, file), state)

    @pytest.mark.parametrize('backbone', [SPIKING, SPIKIFIED])
    def test_what_does_not_fit_is_refused(self, backbone, file, state):
        torch.save({k.replace('.conv', '.c'): v for k, v in state.items()}, file)
        with pytest.raises(ValueError, match='backbone.init_cfg.checkpoint: .*python -m mmsnn convert') as error:
            initialised(backbone, file)
        assert str(error.value).count(file) == 2

    @pytest.mark.parametrize(
        'inner',
        [
            dict(type='mmdet.SwinTransformer', embed_dims=8, depths=(1,) * 4, num_heads=(1,) * 4, window_size=4),
            dict(type='mmdet.PyramidVisionTransformer', embed_dims=8, num_layers=[1] * 4),
            dict(type='mmseg.VisionTransformer', img_size=32, embed_dims=8, num_layers=1, num_heads=2, mlp_ratio=2),
        ],
    )
    def test_backbones_that_read_for_themselves(self, inner, file):
        """Their own way through a file that does not fit is silent; a file that fits passes."""
        spikified = dict(type='mmsnn.Spikify', T=2, backbone=inner)
        cfg = ConfigDict(type='Pretrained', checkpoint=file)
        plain = MODELS.build(inner)
        torch.save(dict(state_dict={'a.b': torch.rand(2, 2)}), file)
        with pytest.raises(ValueError, match=f'^backbone.init_cfg.checkpoint: {file} (fills 0 of|was not loaded by)'):
            MODELS.build({**spikified, 'init_cfg': cfg}).init_weights()
        state = random_state(plain)
        # the one knows a backbone by this prefix, the others by its absence
        lead = 'backbone.' if 'Swin' in inner['type'] else ''
        torch.save(dict(state_dict={lead + k: v for k, v in state.items()}), file)
        model = MODELS.build({**spikified, 'init_cfg': cfg})
        model.init_weights()
        kernels = {name: state[name] for name, p in plain.named_parameters() if p.dim() > 1}
        assert holds(model, kernels)

    def test_given_as_a_class(self, file, state):
        """As configs in Python's own syntax do."""
        torch.save({k.replace('.conv', '.c'): v for k, v in state.items()}, file)
        model = MODELS.build({**SPIKING, 'init_cfg': dict(type=PretrainedInit, checkpoint=file)})
        with pytest.raises(ValueError, match='backbone.init_cfg.checkpoint'):
            model.init_weights()

    @pytest.mark.parametrize('prefix', ['backbone', 'backbone.'])
    @pytest.mark.parametrize('wrap', ['', 'module.', '_orig_mod.', 'module._orig_mod.'])
    def test_prefix(self, file, state, prefix, wrap):
        whole = {f'{wrap}backbone.{k}': v for k, v in release(state).items()}
        torch.save(dict(state_dict={**whole, f'{wrap}head.fc.bias': torch.rand(2)}), file)
        assert holds(initialised(SPIKING, file, prefix=prefix), state)

    def test_wrong_prefix(self, file, state):
        torch.save(dict(state_dict={f'backbone.{k}': v for k, v in state.items()}), file)
        with pytest.raises(ValueError, match=f"backbone.init_cfg.prefix='encoder.': no entry of {file}.*are backbone"):
            initialised(SPIKING, file, prefix='encoder.')

    def test_whole_model(self, file):
        model = MODELS.build(classifier(True))
        state = random_state(model)
        torch.save(dict(state_dict={f'_orig_mod.{k}': v for k, v in state.items()}), file)
        assert holds(initialised(classifier(True), file), state)
        torch.save({k: v for k, v in state.items() if 'layer2' not in k}, file)
        with pytest.raises(ValueError, match='model.init_cfg.checkpoint: .*lacks weights of the backbone'):
            initialised(classifier(True), file)

    def test_neck(self, file):
        """Of an ANN, which the tools check, too."""
        neck = {**detector(True)['neck'], 'type': 'mmdet.FPN'}
        state = random_state(MODELS.build(neck))
        torch.save(dict(state_dict={f'module.neck.{k}': v for k, v in state.items()}), file)
        with anns_are_checked():
            assert holds(initialised(neck, file), state)
            assert holds(initialised(neck, file, prefix='neck.'), state)
            torch.save(dict(state_dict={k.replace('conv', 'c'): v for k, v in state.items()}), file)
            with pytest.raises(ValueError, match=f'neck.init_cfg.checkpoint: {file} fits nothing in FPN'):
                initialised(neck, file)

    def test_anns_of_others_are_left_to_mmengine(self, file, state, capfd):
        """Unless they are a tool's or a teacher."""
        torch.save({k.replace('.conv', '.c'): v for k, v in state.items()}, file)
        initialised(ANN, file)
        with anns_are_checked(), pytest.raises(ValueError, match='4 of 20 kernels'):
            initialised(ANN, file)
        initialised(ANN, file)

    @pytest.mark.parametrize(
        ('source', 'kind', 'message'),
        [
            ('gone.pth', FileNotFoundError, "there is no checkpoint at 'gone.pth'"),
            ('torchvision://vgg99', ValueError, "no weights of the name 'vgg99'"),
            ('https://127.0.0.1:9/x.pth', OSError, 'could not be downloaded .*: download it'),
        ],
    )
    def test_sources_that_are_not_there(self, source, kind, message):
        with pytest.raises(kind, match=f'backbone.init_cfg.checkpoint.*{message}'):
            initialised(SPIKING, source)


class Hostile:
    def __reduce__(self):
        return os.mkdir, ('executed',)


class TestSafeReading:
    def test_nothing_is_run(self, file, state, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        torch.save(dict(state_dict=state, meta=Hostile()), file)
        for prefix in (None, 'backbone'):
            with pytest.raises(ValueError, match='backbone.init_cfg.checkpoint: .*could run code'):
                initialised(SPIKING, file, **(dict(prefix=prefix) if prefix else {}))
        assert not (tmp_path / 'executed').exists()

    def test_other_schemes(self, file, state, tmp_path, monkeypatch):
        """Files that mmengine reads from its own folder, and downloads."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv('MMENGINE_HOME', str(tmp_path))
        torch.save(dict(state_dict=state, meta=Hostile()), file)
        (tmp_path / 'open_mmlab.json').write_text('{"mine": "weights.pth"}')
        with pytest.raises(ValueError, match='could run code'):
            load_pretrained(MODELS.build(SPIKING), 'open-mmlab://mine')
        assert not (tmp_path / 'executed').exists()
        torch.save(dict(state_dict=state), file)
        model = MODELS.build(SPIKING)
        load_pretrained(model, 'open-mmlab://mine')
        assert holds(model, state)

    def test_mmengine_is_as_before_afterwards(self):
        names = 'load_url', '_safe_torch_load'
        before = [getattr(mmengine_checkpoint, name) for name in names]
        schemes = dict(mmengine_checkpoint.CheckpointLoader._schemes)
        with pytest.raises(KeyError), safe_reading():
            assert mmengine_checkpoint.CheckpointLoader._schemes[''] is not schemes['']
            raise KeyError
        assert [getattr(mmengine_checkpoint, name) for name in names] == before
        assert mmengine_checkpoint.CheckpointLoader._schemes == schemes


class TestLoadCheckpoint:
    """The door of the task libraries' inferencers and ``init_detector``."""

    @pytest.mark.parametrize('wrap', ['module.', '_orig_mod.', 'module._orig_mod.'])
    def test_wrapped_names(self, file, wrap):
        model = MODELS.build(classifier(True))
        state = random_state(model)
        torch.save(dict(state_dict={wrap + k: v for k, v in state.items()}), file)
        load_checkpoint(model, file, map_location='cpu')
        assert holds(model, state)

    def test_foreign_file_is_converted_or_refused(self, file, state):
        model = MODELS.build(classifier(True))
        # mmengine takes a file without the entry state_dict for one
        torch.save(dict(model=release(state), optimizer={}, epoch=3), file)
        load_checkpoint(model, file, map_location='cpu')
        assert holds(model, {f'backbone.{k}': v for k, v in state.items()})
        torch.save(dict(state_dict={k.replace('.conv', '.c'): v for k, v in state.items()}), file)
        with pytest.raises(ValueError, match=f'^{file}.* lacks weights of the backbone of ImageClassifier'):
            load_checkpoint(model, file, map_location='cpu')
