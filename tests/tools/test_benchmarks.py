"""The speed and memory benchmarks at toy sizes: they pair, compare and write; no time is judged."""

import importlib.util
import json
from pathlib import Path

import cli
import pytest
import tiny
import torch

from mmsnn.building import build_model, read

FOLDER = Path(__file__).parents[2] / 'tools/benchmarks'
pytest.importorskip('spikingjelly')


def load(name):
    spec = importlib.util.spec_from_file_location(f'benchmark_{name}', FOLDER / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lif(tmp_path, capsys):
    out = tmp_path / 'lif.json'
    load('lif').main(
        ['--shape', '4', '2', '3', '5', '5', '--T', '1', '4', '--rounds', '2', '--no-compile', '--out', str(out)]
    )
    one, four, norm = json.loads(out.read_text())['results']
    assert (one['T'], four['T']) == (1, 4) and not four['missing']
    table = four['tables']['forward and backward']
    (jelly,) = [name for name in table if name.startswith('SpikingJelly')]
    assert {'mmsnn', 'copy of the useful bytes', jelly} == table.keys() and jelly in four['parity']
    assert any('bn_lif' in name for name in norm['tables']['NCHW, forward and backward'])
    assert out.with_suffix('.png').stat().st_size > 0 and '1.00 x' in capsys.readouterr().out


@pytest.mark.parametrize('wrong', ['out', 'grad'])
def test_no_time_without_parity(wrong):
    ours = dict(out=torch.ones(100), grad=torch.ones(100))
    theirs = {**ours, wrong: torch.zeros(100)}
    with pytest.raises(SystemExit, match='computes something else'):
        load('lif').check('peer', theirs, ours)


def test_memory(tmp_path):
    out = tmp_path / 'memory.json'
    load('memory').main(['--shape', '4', '8', '64', '8', '8', '--blocks', '3', '--out', str(out)])
    found = json.loads(out.read_text())['results'][0]['bytes_per_element']
    (jelly,) = [v for name, v in found.items() if name.startswith('SpikingJelly')]
    assert found['mmsnn'] <= jelly / 2 and found['mmsnn, packed spikes'] <= jelly / 4


def test_step(tmp_path):
    out = tmp_path / 'step.json'
    load('step').main(['--depth', '18', '--size', '32', '--batch', '2', '--rounds', '1', '--out', str(out)])
    (case,) = json.loads(out.read_text())['results']
    (jelly,) = [name for name in case['table'] if name.startswith('SpikingJelly')]
    assert case['parity'][jelly]['logits_differ'] < 0.01 and 'mmsnn, packed spikes' in case['table']


def test_event(tmp_path, capsys):
    """Densities are measured, SpikingJelly computes the same, and what is done is not done again."""
    out = tmp_path / 'event.json'
    options = ['--networks', 'sew18', 'ms18', '--size', '32', '--batch', '1', '--threads', '1', '--rounds', '2']
    options += ['--no-compile', '--v-threshold', '1', '--out', str(out)]
    benchmark = load('event')
    benchmark.main(options)
    sew, ms = json.loads(out.read_text())['results']
    ours = {'mmsnn, events', 'mmsnn, events, 16-bit weights', 'mmsnn, dense', 'ANN, eager'}
    assert ours | {'SpikingJelly'} <= sew['table'].keys() and ours <= ms['table'].keys()
    assert sew['parity']['SpikingJelly'] < 0.01 and sew['parity']['mmsnn, events'] < 0.01
    assert 0 < sew['density'] < 1 and sew['layers']['backbone.layer1.0.conv1']['runs'] in ('event', 'dense')
    assert 'MSResNet' in ms['missing']['SpikingJelly']
    assert out.with_suffix('.png').stat().st_size > 0 and 'by the shortest times' in capsys.readouterr().out
    benchmark.run_case = None
    assert len(benchmark.main(options)) == 2


def test_trained(tmp_path, capsys):
    """Whole networks and backbones of both kinds, with the accuracy of each T and of the twin."""
    spiking = cli.write_detector(tmp_path)
    twin = tmp_path / 'twin.py'
    twin.write_text(spiking.read_text().replace(repr(tiny.detector(True)), repr(tiny.detector(False))))
    for config in (spiking, twin):
        torch.save(build_model(read(str(config))).state_dict(), config.with_suffix('.pth'))
    files = [[str(config), str(config.with_suffix('.pth'))] for config in (spiking, twin)]
    out = tmp_path / 'trained.json'
    load('trained').main(
        [*files[0], '--twin', *files[1], '--T', '1', '3', '--batch', '2', '--rounds', '2', '--out', str(out)]
    )
    found = json.loads(out.read_text())
    one, three = found['results']
    assert (one['T'], three['T'], one['size'], found['twin']) == (1, 3, [64, 64], files[1])
    assert three['parity'] < 0.01 and 0 < three['density'] < 1
    for part in ('whole', 'backbone'):
        assert three[part].keys() == {'SNN, events', 'SNN, all on events', 'SNN, dense', 'ANN, norms folded'}
    assert one['accuracy'].keys() == found['accuracy_of_twin'].keys()
    assert 'density' in capsys.readouterr().out


def test_overhead(tmp_path, capsys):
    """Methods without a config for the student are left out; where there is no teacher, the step alone counts."""
    out = tmp_path / 'overhead.json'
    arguments = ['spiking_r18_cifar10_small', '--methods', 'sakd', 'tet', 'nothing', '--noise', '32', '--batch', '2']
    load('overhead').main([*arguments, '--rounds', '2', '--out', str(out)])
    (case,) = json.loads(out.read_text())['results']
    assert case['taught'] == {'sakd': True, 'tet': False}
    table = case['table']
    assert set(table) == {'undistilled step', 'undistilled step, spikes counted', 'sakd', 'tet', 'teacher forward'}
    assert table['sakd']['overhead']['median'] < table['sakd']['ratio']['median']
    assert table['tet']['overhead'] == table['tet']['ratio']
    assert 'time relative to the undistilled step plus' in capsys.readouterr().out


def test_event_training(tmp_path, monkeypatch):
    from mmsnn.ops import packed_conv

    for name in ('DENSEST', 'SMALLEST', 'NARROWEST'):
        monkeypatch.setattr(packed_conv, name, getattr(packed_conv, name))  # put back afterwards
    out = tmp_path / 'out.json'
    load('event_training').main(['--shapes', '1', '--densities', '0.05', '--rounds', '1', '--out', str(out)])
    (case,) = json.loads(out.read_text())['results']
    assert case['density'] == 0.05 and set(case['table']) == {'on events', 'dense'}
