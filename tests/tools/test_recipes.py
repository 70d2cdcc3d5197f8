"""tools/analysis_tools/recipes.py: what a training takes, by shapes alone."""

import runpy

import pytest

from mmsnn.building import build_model, read
from mmsnn.shipped import home

TOOL = runpy.run_path(str(home() / 'tools' / 'analysis_tools' / 'recipes.py'))
CONFIGS = home() / 'configs'


def test_activations_are_those_of_a_real_pass():
    """Shapes alone give what a pass on the CPU keeps."""
    config = read('mmsnn::spiking/spiking_r18_cifar10_small.py')
    on_meta = TOOL['activations'](build_model(config).to('meta'), (32, 32))
    model = build_model(config)
    assert on_meta == TOOL['activations'](model, (32, 32))
    # by hand: of the first convolution's output [2, 16, 16, 16] something is kept; of everything less than 100 such
    assert 2**14 < on_meta < 100 * 4 * 2**14


def test_a_distillation(tmp_path):
    """By hand, from the config: 50,000 images, 200 epochs of 128 on one GPU."""
    path = CONFIGS / 'sakd' / 'spiking_r18_cifar10.py'
    (found,) = TOOL['main']([str(path), '--table', str(tmp_path / 'recipes.md')])
    assert (found.images, found.epochs, found.batch, found.per_gpu) == (50_000, 200, 128, 128)
    # ResNet-18 on 32 x 32 pixels has 0.556 GMACs, its first convolution once, and T=4
    assert found.teacher == pytest.approx(0.556e9, rel=0.01) and found.macs == pytest.approx(4 * 0.556e9, rel=0.02)
    flops = 50_000 * 200 * 2 * (3 * found.macs + found.teacher)
    moved = 50_000 * 200 * 3 * found.kept
    assert found.hours == pytest.approx(max(flops / 100e12, moved / 1.5e12) / 3600)
    text = (tmp_path / 'recipes.md').read_text()
    assert '| sakd/spiking_r18_cifar10.py | 50,000 | 200 | 1 x 128 |' in text


def test_unknown_data():
    with pytest.raises(ValueError, match='number of training images is known only for'):
        TOOL['recipe'](CONFIGS / 'sakd' / 'retinanet_sew18_bccd.py')


def test_the_page_is_what_the_tool_writes():
    """The rows of docs/recipes.md that take least to count again."""
    path = CONFIGS.resolve() / 'sakd' / 'spiking_r20_cifar10.py'
    row = f'| {" | ".join(TOOL["recipe"](path).row())} |'
    text = (TOOL['CONFIGS'].parent / 'docs' / 'recipes.md').read_text()
    assert row in text.splitlines() and TOOL['PAGE'] in text
