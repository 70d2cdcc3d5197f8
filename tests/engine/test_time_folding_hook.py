"""A neuron that would take images for time steps is named before training."""

import copy

import pytest
import tiny
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmsnn.engine.hooks import TimeFoldingError, check_time_folding
from mmsnn.models import SEWResNet
from mmsnn.neurons import LIF


class Net(nn.Module):
    """A spiking backbone and a neck with a neuron of its own."""

    def __init__(self, readout):
        super().__init__()
        self.backbone = SEWResNet(18, T=4, base_channels=8, readout=readout)
        self.neck = nn.Sequential(nn.Conv2d(64, 8, 1), LIF(T=4))

    def extract_feat(self, x):
        return self.neck(self.backbone(x)[-1])


def test_unfolded_neuron_is_named():
    with pytest.raises(TimeFoldingError, match=r'neck\.1 \(LIF, T=4\).*readout'):
        check_time_folding(Net('mean'))


def test_folded_neuron_passes_and_nothing_changes():
    net = Net('none').train()
    net.backbone.layer1.eval()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    seed = torch.get_rng_state()
    check_time_folding(net)
    assert net.training and not net.backbone.layer1.training and net.backbone.layer2.training
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in state.items())
    assert torch.equal(seed, torch.get_rng_state())
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_ann_is_left_alone():
    check_time_folding(nn.Linear(3, 3))


@pytest.mark.parametrize('scope, make', [('mmpretrain', tiny.classifier), ('mmdet', tiny.detector)])
def test_time_steps_are_no_images(scope, make):
    """A head of the task library behind a backbone without readout, which would give T predictions an image."""
    cfg = make(True)
    for readout in ('mean', 'none'):
        cfg['backbone']['readout'] = readout
        with DefaultScope.overwrite_default_scope(scope):
            model = MODELS.build(copy.deepcopy(cfg))
        if readout == 'mean':
            check_time_folding(model)
            continue
        with pytest.raises(TimeFoldingError, match=r'head \(\w+Head\) is given .* for one image.*backbone.readout'):
            check_time_folding(model)
