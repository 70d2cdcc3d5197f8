"""The weights that come with mmsnn."""

import hashlib
import json
import runpy

import pytest
import torch
import yaml
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint

from mmsnn import shipped
from mmsnn.building import build_model, read
from mmsnn.checkpoints import origin
from mmsnn.checkpoints.origin import read_text
from mmsnn.checkpoints.reading import load_file, load_state
from mmsnn.checkpoints.task_models import load_model

WEIGHTS = shipped.weights()


def test_there_are_some():
    assert WEIGHTS


@pytest.mark.parametrize('name', WEIGHTS)
class TestEach:
    def test_file(self, name):
        entry = WEIGHTS[name]
        content = entry['file'].read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry['sha256'] and len(content) <= 5_000_000
        assert entry['commands'] and entry['metrics'] and entry['commit']

    def test_fills_its_config(self, name):
        """No weight is left random, and none has no use."""
        model = load_model(f'mmsnn::{WEIGHTS[name]["config"]}', f'mmsnn://{name}')
        state = load_state(f'mmsnn://{name}')
        assert state.keys() == model.state_dict().keys()
        torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)
        assert model.classes

    def test_by_mmengine(self, name):
        """The libraries' own tools load them by the same name."""
        assert 'state_dict' in CheckpointLoader.load_checkpoint(f'mmsnn://{name}')
        model = build_model(read(f'mmsnn::{WEIGHTS[name]["config"]}'))
        load_checkpoint(model, f'mmsnn://{name}', strict=True)

    def test_metafile_names_it(self, name):
        """With the figure of the index."""
        files = (shipped.home() / 'configs').glob('*/metafile.yml')
        models = [model for file in files for model in yaml.safe_load(file.read_text())['Models']]
        (model,) = (model for model in models if model.get('Weights') == f'mmsnn://{name}')
        (figure,) = model['Results'][0]['Metrics'].values()
        metrics = WEIGHTS[name]['metrics']
        expected = metrics['accuracy/top1'] if 'accuracy/top1' in metrics else 100 * metrics['coco/bbox_mAP']
        assert figure == pytest.approx(expected)


def test_unknown_name():
    with pytest.raises(FileNotFoundError, match=f'no such weights come with mmsnn, but {next(iter(sorted(WEIGHTS)))}'):
        load_state('mmsnn://resnet')


def test_publish(tmp_path):
    """What is published is read by its name's index, and holds the network alone."""
    publish = runpy.run_path(str(shipped.home() / 'tools' / 'model_converters' / 'publish.py'))['main']
    name = next(iter(WEIGHTS))
    results = tmp_path / 'benchmark.json'
    results.write_text(json.dumps(dict(metrics={'coco/bbox_mAP': 0.51239, 'note': 'x'})))
    arguments = [f'mmsnn::{WEIGHTS[name]["config"]}', f'mmsnn://{name}', '--name', 'again', '--results', str(results)]
    entry = publish([*arguments, '--commands', 'mmsnn train', '--folder', str(tmp_path)])
    assert entry['metrics'] == {'coco/bbox_mAP': 0.5124} and entry['config'] == WEIGHTS[name]['config']
    assert json.loads((tmp_path / 'index.json').read_text()) == dict(again=entry)
    content = torch.load(tmp_path / 'again.pth', weights_only=True)
    torch.testing.assert_close(dict(content['state_dict']), load_state(f'mmsnn://{name}'), rtol=0, atol=0)


@pytest.mark.parametrize('name', WEIGHTS)
def test_the_files_tell_their_network(name, monkeypatch):
    """And not more of their config, which may name folders."""
    said = []
    monkeypatch.setattr(origin, 'print_log', lambda text, *_: said.append(text))
    load_model(f'mmsnn::{WEIGHTS[name]["config"]}', f'mmsnn://{name}')
    cfg = read_text(load_file(f'mmsnn://{name}')['meta']['cfg'])
    assert list(cfg) == ['model'] and set(cfg['model']) == {'backbone', 'neck'} and not said
    others = {other for other in WEIGHTS if 'digits' in other} - {name}
    for other in others if 'digits' in name else ():
        load_model(f'mmsnn::{WEIGHTS[other]["config"]}', f'mmsnn://{name}')
        (text,) = said
        assert text.startswith(f'mmsnn://{name} was trained with another network') and 'model.backbone.type' in text
