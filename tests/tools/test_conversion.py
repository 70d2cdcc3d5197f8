"""The comparison with conversion: what is converted computes what the ANN does, and its operations are counted."""

import json
import runpy
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.datasets.categories import CIFAR10_CATEGORIES
from torch import nn

from mmsnn.building import build_model, read

neuron = pytest.importorskip('spikingjelly.activation_based.neuron', reason='conversion needs SpikingJelly')
ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / 'configs/ann/r20_cifar10.py')


@pytest.fixture(scope='module')
def tool():
    return runpy.run_path(str(ROOT / 'tools/analysis_tools/conversion.py'))


def ann(seed=0):
    torch.manual_seed(seed)
    return build_model(read(CONFIG)).eval()


def test_shortcuts_stay_what_they_were(tool):
    logits, images = tool['Logits'](ann()), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = logits(images)
        tool['shortcuts_as_convolutions'](logits)
        assert sum(isinstance(m, nn.Conv2d) for m in logits.modules()) == 19 + 2
        torch.testing.assert_close(logits(images), before)


@pytest.fixture
def weights(tmp_path):
    torch.save(dict(state_dict=ann().state_dict()), tmp_path / 'ann.pth')
    return tmp_path / 'ann.pth'


@pytest.mark.parametrize('recipe', ['max', 'quantile', 'balanced'])
def test_many_steps_answer_as_the_ann(tool, weights, recipe):
    images = torch.randn(2, 3, 32, 32)
    model = tool['convert'](read(CONFIG), str(weights), recipe, [(images,)] * 30)
    total, errors = 0, {}
    with torch.no_grad():
        wanted = tool['Logits'](ann())(images)
        for t in range(1, 65):
            total = total + model(images)
            errors[t] = ((total / t - wanted).norm() / wanted.norm()).item()
    # balanced thresholds clip what is above them, which no number of steps brings back
    assert errors[64] < 0.6 * errors[8] and errors[64] < 0.5


@pytest.mark.parametrize('kind', ['IFNode', 'HalfThresholdIFNode'])
def test_neurons_compute_as_spikingjelly(tool, kind):
    theirs = getattr(neuron, kind)(v_threshold=0.7, **(dict(v_reset=None) if kind == 'IFNode' else {}))
    ours, fired = tool['Integrate'](theirs), 0
    for _ in range(20):
        x = (torch.randn(2, 3, 5, 4) * 0.5).to(memory_format=torch.channels_last)
        spikes = theirs(x)
        assert torch.equal(ours(x), spikes) and torch.equal(ours.v, theirs.v)
        fired += spikes.sum()
    assert 50 < fired < 1200


def test_a_converted_network_keeps_no_neuron_of_spikingjelly(tool, weights):
    images = torch.randn(2, 3, 32, 32)
    for recipe in ('quantile', 'balanced'):
        model = tool['convert'](read(CONFIG), str(weights), recipe, [(images,)])
        assert sum(isinstance(m, tool['Integrate']) for m in model.modules()) == 19
        assert not any(isinstance(m, neuron.BaseNode) for m in model.modules())


def test_every_simulation_starts_at_the_initial_potential(tool, weights):
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    model = tool['convert'](read(CONFIG), str(weights), 'balanced', [(images,)])
    first, second = (tool['simulate'](model, images, labels, [4], True) for _ in range(2))
    assert first['acs'] == second['acs'] and first['acs']['4'] > 0


def test_operations(tool):
    """Spikes of any height count once a reached output; the first layer and the last run once; copies cost nothing."""
    model = nn.Sequential()
    model.first = nn.Conv2d(1, 2, 1)
    model.downsample = nn.Conv2d(2, 2, 1)
    model.second = nn.Conv2d(2, 3, 3, padding=1)
    model.fc = nn.Linear(3, 5)
    operations = tool['Operations'](model)
    spikes = torch.zeros(1, 2, 4, 4)
    spikes[0, 0, 0, 0], spikes[0, 1, 2, 2] = 0.7, 1.3
    for _ in range(3):
        model.first(torch.rand(1, 1, 4, 4))
        model.downsample(spikes)
        model.second(spikes)
        model.fc(torch.rand(1, 3))
    # a corner reaches 2x2 places, the middle 3x3, of 3 channels each
    assert operations.acs == 3 * (4 + 9) * 3
    assert operations.macs == 2 * 16 + 15
    operations.close()
    model.second(spikes)
    assert operations.acs == 3 * (4 + 9) * 3


def test_curve(tool):
    state = dict(images=0, counted=0, timed=0, right={}, acs={}, macs={}, seconds={})
    tool['add'](
        state,
        dict(right={'1': 3, '2': 5}, acs={'1': 1e7, '2': 4e7}, macs={'1': 1e7, '2': 1e7}, seconds={'1': 9}),
        10,
        True,
    )
    tool['add'](state, dict(right={'1': 5, '2': 9}, acs={}, macs={}, seconds={'1': 1.0, '2': 2.0}), 10, False)
    points = tool['curve'](state, 'cpu')
    assert [p['accuracy'] for p in points.values()] == [40, 70]
    assert points['2']['cpu_seconds'] == 0.2 and points['2']['acs'] == 4e6
    assert points['2']['energy_uj'] == pytest.approx(4 * 0.9 + 1 * 4.6)
    assert [tool['first_to_reach'](points, a) for a in (40, 41, 71)] == [1, 2, None]


def test_from_the_command_line(tool, weights, tmp_path, monkeypatch, capsys):
    """Goes on where it stopped, refuses a file of other settings, and puts a student beside the ANN."""
    with tarfile.open(tmp_path / 'cifar10.tar.gz', 'w:gz') as tar:
        for split in ('train', 'test'):
            for label, kind in enumerate(CIFAR10_CATEGORIES):
                cv2.imwrite(str(tmp_path / 'a.png'), np.full((32, 32, 3), 25 * label, np.uint8))
                tar.add(tmp_path / 'a.png', f'cifar10/{split}/{kind}/0.png')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MMSNN_DATA_ROOT', str(tmp_path))
    student = read(str(ROOT / 'configs/spiking/spiking_r20_cifar10.py'))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        torch.save(dict(state_dict=MODELS.build(student.model).state_dict()), tmp_path / 'snn.pth')
    command = [CONFIG, str(weights), '--recipes', 'max', '--max-T', '2', '--batch-size', '5', '--count', '5']
    command += ['--calibration', '5', '--out', 'out.json']
    tool['main']([*command, '--num-images', '5'])
    first = json.loads(Path('out.json').read_text())
    assert first['recipes']['max']['state']['images'] == first['ann']['images'] == 5
    config = ROOT / 'configs/sakd/spiking_r20_cifar10.py'
    tool['main']([*command, '--students', f'SAKD={config}=snn.pth', '--student-T', '1', '4'])
    result = json.loads(Path('out.json').read_text())
    state = result['recipes']['max']['state']
    assert (state['images'], state['counted'], state['timed']) == (10, 5, 5)
    assert list(result['students']['SAKD']) == ['1', '4'] and result['students']['SAKD']['4']['images'] == 10
    assert list(result['recipes']['max']['curve']) == ['1', '2'] and Path('out.png').stat().st_size > 10_000
    assert 'conversion reaches its accuracy at T = ' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='has other settings'):
        tool['main']([*command, '--max-T', '4'])
