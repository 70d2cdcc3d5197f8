"""R12: two processes that share the statistics of their batch norms, time folded into the batch, are one process.

mmengine's conversion to torch's SyncBatchNorm is used; on a CPU torch's own forward refuses, and what runs is
`mmsnn.ops.bn_lif`, norm and neuron in one. An image passes the stem's norm before time is folded in and apart from a
neuron, so that with images the stem is left out here; event frames pass everything.
"""

import pytest
import ranks
import torch
from torch import nn

# images of rank 0 out of 8, event frames or images, whether the norms are converted
CASES = {
    'event frames': (4, True, True),
    'event frames, uneven': (5, True, True),
    'images': (4, False, True),
    'not converted': (4, True, False),
}


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    return ranks.run(ranks.share_statistics, tmp_path_factory.mktemp('ranks'), CASES)


def differences(case, both):
    """Largest difference between two ranks and one process, of outputs, statistics and gradients."""
    _, events, _ = CASES[case]
    whole = ranks.observe(ranks.spiking(frozen_stem=not events), slice(0, 8), events)
    halves = [half[case] for half in both]

    def largest(got, expected):
        return (got.double() - expected.double()).abs().max().item()

    outputs = zip(halves[0]['outputs'], halves[1]['outputs'], whole['outputs'])
    found = dict(outputs=max(largest(torch.cat([a, b]), c) for a, b, c in outputs))
    for what in ('statistics', 'gradients'):
        assert all(half[what].keys() == whole[what].keys() for half in halves)
        found[what] = max(largest(half[what][k], v) for half in halves for k, v in whole[what].items())
    rates = [out.mean().item() for out in whole['outputs']]
    assert all(rate > 0.01 for rate in rates) and min(g.abs().max() for g in whole['gradients'].values()) > 1e-3, rates
    return found


@pytest.mark.parametrize('case', [name for name in CASES if name != 'not converted'])
def test_two_ranks_are_one_process(case, both):
    found = differences(case, both)
    assert max(found.values()) <= 1e-5, found


def test_without_conversion_they_are_not(both):
    """What would go unnoticed if the cases above compared nothing."""
    found = differences('not converted', both)
    assert min(found.values()) > 1e-2, found


def test_conversion_reaches_every_norm():
    model = ranks.spiking(convert=True)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 20 and all(type(m) is nn.SyncBatchNorm for m in norms)
    assert list(model.state_dict()) == list(ranks.spiking().state_dict())
