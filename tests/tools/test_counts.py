"""Options that count something: zero, negative numbers and fractions are refused, by name, before anything is read."""

import functools
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = 'mmsnn::spiking/spiking_r18_cifar10.py'
TOOLS = {
    'tools/test': ([CONFIG, 'x.pth'], ['--T']),
    'tools/look': ([CONFIG, 'x.pth', 'x.png'], ['--T']),
    'tools/deploy': (
        [CONFIG, 'x.pth', '--to', 'pt2', '--out', 'x.pt2'],
        ['--T', '--static-batch', '--calibrate', '--shape'],
    ),
    'tools/analysis_tools/energy': ([CONFIG], ['--T', '--shape']),
    'tools/analysis_tools/get_flops': ([CONFIG], ['--T', '--shape']),
    'tools/analysis_tools/rate_sweep': ([CONFIG, '--out', 'x'], ['--T']),
    'tools/analysis_tools/saliency': ([CONFIG], ['--first', '--boxes', '--T']),
    'tools/analysis_tools/conversion': (
        [CONFIG, 'x.pth'],
        ['--max-T', '--num-images', '--calibration', '--count', '--batch-size', '--student-T'],
    ),
    'demo/image_demo': (['x.png', CONFIG, 'x.pth'], ['--T']),
    'demo/digits_demo': ([], ['--epochs', '--teacher-epochs', '--seeds', '--num-train']),
}
tool = functools.cache(lambda name: runpy.run_path(str(ROOT / f'{name}.py')))
CASES = [(name, option) for name, (_, options) in TOOLS.items() for option in options]


@pytest.mark.parametrize('wrong', ['0', '-2', '1.5'])
@pytest.mark.parametrize(('name', 'option'), CASES)
def test_is_refused(name, option, wrong, capsys, monkeypatch):
    # where a demo's own modules lie
    monkeypatch.syspath_prepend(str(ROOT / 'demo'))
    values = [wrong, '32'] if option == '--shape' else [wrong]
    with pytest.raises(SystemExit):
        tool(name)['parse_args']([*TOOLS[name][0], option, *values])
    message = capsys.readouterr().err
    assert option in message
    # argparse takes -2 for an option where the values are a list
    assert 'must be a whole number of at least 1' in message or wrong == '-2'
