"""The table of sizes in configs/spiking/README.md: what is built has these parameters, and those published."""

from itertools import pairwise
from pathlib import Path

import pytest

from mmsnn import models

README = Path(__file__).parents[2] / 'configs/spiking/README.md'
TABLE = README.read_text().split('## Sizes')[1].split('##')[0]
ROWS = [[c.strip(' `') for c in line[1:-1].split(' | ')] for line in TABLE.splitlines() if line.startswith('| `')]


@pytest.mark.parametrize('backbone, linear, parameters, published, source', ROWS, ids=lambda v: v if '(' in v else '')
def test_row(backbone, linear, parameters, published, source):
    model = eval(backbone, vars(models))
    widths = [model.out_channels[-1], *map(int, linear.split(', '))] if linear else []
    count = sum(p.numel() for p in model.parameters()) + sum((a + 1) * b for a, b in pairwise(widths))
    assert f'{count:,}' == parameters
    assert source
    if published:
        assert count / 1e6 == pytest.approx(float(published), rel=0.005)


def test_backbone_has_a_row(backbone_type):
    if backbone_type is not models.Spikify:  # the ANN's size
        assert backbone_type.__name__ in {row[0].split('(')[0] for row in ROWS}
