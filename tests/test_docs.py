"""The pages of docs/ and the site made of them."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmsnn.registry import MODELS

REPO = Path(__file__).resolve().parents[1]


def blocks(page: str, language: str = 'python') -> list[str]:
    """The code of one language on a page."""
    return re.findall(rf'```{language}\n(.*?)```', (REPO / 'docs' / page).read_text(encoding='utf-8'), re.DOTALL)


@pytest.fixture(scope='module')
def own():
    """What the page on parts of one's own defines; the registry is as before afterwards."""
    before, names = dict(MODELS.module_dict), {}
    for code in blocks('extend.md'):
        exec(code, names)
    yield names
    MODELS._module_dict.clear()
    MODELS._module_dict.update(before)


class TestExtend:
    def test_neuron_with_other_settings(self, own):
        neuron = MODELS.build(dict(type='SlowLIF', T=4, v_threshold=0.5))
        assert (neuron.settings.tau, neuron.settings.v_reset, neuron.settings.v_threshold) == (8.0, None, 0.5)
        assert set(neuron(torch.rand(8, 3)).unique().tolist()) <= {0.0, 1.0}

    def test_neuron_with_another_equation(self, own):
        """By hand: tau 2, threshold 1, a rise of 1 with every spike."""
        neuron = MODELS.build(dict(type='AdaptiveLIF', T=3, step=1.0))
        x = torch.tensor([[2.0], [2.0], [4.0]], requires_grad=True)
        spikes, v = neuron(x, return_v=True)
        # v 1 fires, threshold 2; v 1 does not, threshold 1.9; v 2.5 fires
        assert spikes.flatten().tolist() == [1, 0, 1] and v.tolist() == [[0]]
        spikes.sum().backward()
        assert x.grad[0].item() == 0.5 and x.grad.isfinite().all()

    @pytest.mark.parametrize('neuron', [dict(type='LIF'), dict(type='SlowLIF'), dict(type='AdaptiveLIF')])
    def test_backbone(self, own, neuron):
        net = MODELS.build(dict(type='TinySpikingNet', T=2, neuron=neuron, out_indices=(1, 2))).eval()
        images = torch.randn(2, 3, 16, 16)
        maps = net(images)
        assert [tuple(m.shape[1:]) for m in maps] == [(32, 4, 4), (64, 2, 2)] and net.out_channels == [32, 64]
        changed = images.clone()
        changed[1] = 0
        torch.testing.assert_close([m[0] for m in net(changed)], [m[0] for m in maps])

    def test_past_the_encoder(self, own):
        from mmsnn.layers import TimeFoldingError

        net = MODELS.build(dict(type='TinySpikingNet', T=2))
        with pytest.raises(TimeFoldingError, match='TinySpikingNet'):
            net.stages[0](torch.randn(2, 3, 8, 8))

    def test_loss(self, own):
        """A term of this loss, as the page writes it, trains in a Distiller."""
        resnet = dict(type='ResNet', depth=18, base_channels=4, stem_channels=4)
        head = dict(type='mmpretrain.LinearClsHead', num_classes=3, in_channels=32)
        pooling = dict(type='mmpretrain.GlobalAveragePooling')
        teacher = dict(type='mmpretrain.ImageClassifier', backbone=dict(resnet, type='mmpretrain.ResNet'))
        student = dict(teacher, backbone=dict(resnet, type='mmsnn.SEWResNet', T=2))
        for model in (teacher, student):
            model.update(neck=pooling, head=head)
        model = MODELS.build(dict(type='Distiller', student=student, teacher=teacher, losses=own['losses']))
        model.train()
        from mmpretrain.structures import DataSample

        samples = [DataSample().set_gt_label(i) for i in (0, 1)]
        losses = model(torch.randn(2, 3, 32, 32), samples, mode='loss')
        assert 0 < losses['loss_cosine'].item() < 2 and losses['loss_cosine'].requires_grad


class TestOpenMMLab:
    def test_configs(self, tmp_path, monkeypatch):
        """The files that the page has users write are read, and their models are those that it speaks of."""
        monkeypatch.chdir(tmp_path)
        codes = blocks('openmmlab.md')
        (tmp_path / 'mine.py').write_text(codes[0])
        (tmp_path / 'taught.py').write_text(codes[-1])
        mine, taught = (Config.fromfile(f'{name}.py') for name in ('mine', 'taught'))
        assert mine.model.backbone.type == 'mmsnn.SEWResNet' and mine.model.backbone.depth == 18
        assert taught.model.student == mine.model and set(taught.model.losses) == {'loss_feature', 'loss_response'}

    def test_fragments(self):
        """What is no whole file builds as well."""
        spikify, neuron = blocks('openmmlab.md')[1:3]
        names = {}
        exec(spikify, names)
        config = dict(names['model']['backbone'])
        config.pop('_delete_')
        config['backbone'] = dict(config['backbone'], type='mmdet.MobileNetV2')
        assert MODELS.build(config).T == 4
        exec(neuron, names)
        assert MODELS.build(dict(names['model']['backbone'], depth=18)).T == 4


@pytest.mark.parametrize('page', sorted(path.name for path in (REPO / 'docs').glob('*.md')))
def test_code_is_python(page):
    for code in blocks(page):
        ast.parse(code)


@pytest.mark.skipif(not importlib.util.find_spec('mkdocs'), reason="needs mkdocs: pip install -e '.[docs]'")
def test_site(tmp_path):
    """The site builds without a warning, and every exported name has an entry."""
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet', '--site-dir', tmp_path / 'site']
    run = subprocess.run(command, cwd=REPO, capture_output=True, text=True, env=dict(os.environ, NO_COLOR='1'))
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    import mmsnn

    page = (tmp_path / 'site/docs/api/neurons/index.html').read_text(encoding='utf-8')
    assert all(f'id="{getattr(mmsnn.neurons, name).__module__}.{name}"' in page for name in mmsnn.neurons.__all__)
    assert 'data-md-component' in (tmp_path / 'site/index.html').read_text(encoding='utf-8')
