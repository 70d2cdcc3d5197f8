"""The example in plain PyTorch, and the page about it."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.transforms.functional import to_pil_image

REPO = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def demo():
    return runpy.run_path(str(REPO / 'demo' / 'plain_pytorch.py'))


@pytest.fixture
def folder(tmp_path):
    """Two classes that differ in brightness, as folders of images."""
    torch.manual_seed(0)
    for split, count in (('train', 30), ('test', 10)):
        for kind, brightness in (('bright', 0.7), ('dark', 0.1)):
            for i in range(count):
                path = tmp_path / split / kind / f'{i:04}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                to_pil_image(brightness + 0.2 * torch.rand(3, 32, 32)).save(path)
    return tmp_path


def test_learns(demo, folder, capsys):
    accuracy = demo['main'](['--data', str(folder), '--images', '300', '--epochs', '3', '--batch', '10', '--T', '2'])
    lines = capsys.readouterr().out.splitlines()
    assert accuracy > 0.9
    assert [line.split(':')[0] for line in lines] == ['epoch 1', 'epoch 2', 'epoch 3', 'T=1', 'T=2']
    rates = re.findall(r'neuron(\d) (\d\.\d+)', lines[2])
    assert [name for name, _ in rates] == ['1', '2', '3'] and all(float(rate) > 0 for _, rate in rates)
    assert lines[2].split('accuracy ')[1].split(',')[0] == lines[-1].split('accuracy ')[1]


def test_an_image_has_no_part_in_another(demo):
    net = demo['make_network'](4, 10).eval()
    x = torch.randn(4, 3, 32, 32)
    before = net(x)
    x[0] = torch.randn(3, 32, 32)
    assert torch.equal(net(x)[1:], before[1:])


def test_reads_the_archive(demo, request):
    root = request.getfixturevalue('data_root')
    classes, splits = demo['read_images'](Path(root), 20)
    assert len(classes) == 10 and splits['train'][0].shape == splits['test'][0].shape == (20, 3, 32, 32)
    assert splits['test'][1].bincount().tolist() == [2] * 10


def test_no_data(demo, tmp_path):
    with pytest.raises(FileNotFoundError, match='--data'):
        demo['main'](['--data', str(tmp_path)])


def test_the_page():
    """Its Python runs, and needs nothing of the libraries' task models."""
    page = (REPO / 'docs' / 'plain_pytorch.md').read_text()
    names = dict(images=torch.randn(3, 3, 8, 8))
    before = {name for name in sys.modules if name.split('.')[0] in ('mmdet', 'mmseg')}
    import mmsnn

    names['mmsnn'] = mmsnn
    for code in re.findall(r'```python\n(.*?)```', page, re.DOTALL):
        exec(code, names)
    assert names['found']['3']['v'].shape == (4, 3, 32, 8, 8)
    assert isinstance(names['neuron'], nn.Module) and names['neuron'](torch.randn(4, 3)).shape == (4, 3)
    assert {name for name in sys.modules if name.split('.')[0] in ('mmdet', 'mmseg')} == before
