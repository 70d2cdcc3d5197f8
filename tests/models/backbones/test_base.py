"""Neurons of a backbone fire behind its encoder alone: nothing else may take images for time steps."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn

from mmsnn.layers import DirectEncoder, TimeFoldingError, fold, time_folded
from mmsnn.models import SEWResNet, SpikingBackbone
from mmsnn.neurons import LIF, Neuron

T, B = 2, 4
PAST = 'encoder did not run'


def sew(**kwargs):
    neuron = dict(type='LIF', v_threshold=0.1)
    return SEWResNet(**{**dict(depth=18, T=T, base_channels=8, deep_stem=True, neuron=neuron), **kwargs})


def short():
    return sew(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,)).eval()


class Pieces(nn.Module):
    """Calls the layers of its backbone itself, as mmseg's ICNet does."""

    def __init__(self, backbone, aware: bool = False):
        super().__init__()
        self.backbone, self.aware = backbone, aware

    def forward(self, x):
        if not self.aware:
            return self.backbone.layer1(self.backbone.maxpool(self.backbone.stem(x)))
        x = self.backbone.encoder(x)
        with time_folded(len(x)):
            return self.backbone.layer1(self.backbone.maxpool(self.backbone.stem(x)))


def test_every_backbone(make_backbone):
    model = make_backbone(T=T)
    x = torch.randn(B, 3, 32, 32)
    model(x)
    neurons = [m for m in model.modules() if isinstance(m, Neuron)]
    assert neurons and all(neuron.owner.startswith(type(model).__name__) for neuron in neurons)
    for neuron in neurons:
        with pytest.raises(TimeFoldingError, match=PAST):
            neuron(torch.randn(B, 3))
    with pytest.raises((ValueError, TypeError)):
        model(torch.randn(B, 3))
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        same(x)
        neuron = next(m for m in same.modules() if isinstance(m, Neuron))
        with pytest.raises(TimeFoldingError, match=PAST):
            neuron(torch.randn(B, 3))


class TestHost:
    @pytest.mark.parametrize('size', [B, T * B])
    def test_that_passes_the_encoder(self, size):
        with pytest.raises(TimeFoldingError, match=r'SEWResNet\.stem\.2 \(T=2\).*images in \(.*time_folded'):
            Pieces(sew())(torch.randn(size, 3, 32, 32))

    def test_that_folds_time(self):
        """An image then has no part in the maps of another."""
        host = Pieces(sew().eval(), aware=True)
        x = torch.randn(B, 3, 32, 32)
        before = host(x).unflatten(0, (T, B))
        x[0] = torch.randn(3, 32, 32)
        after = host(x).unflatten(0, (T, B))
        assert torch.equal(before[:, 1:], after[:, 1:]) and not torch.equal(before[:, 0], after[:, 0])

    def test_after_an_error(self):
        model = sew()
        model.layer2.forward = lambda x: 1 / 0
        with pytest.raises(ZeroDivisionError):
            model(torch.randn(B, 3, 32, 32))
        with pytest.raises(TimeFoldingError, match=PAST):
            model.layer1(torch.randn(B, 8, 8, 8))

    def test_in_another_thread(self):
        """What one thread runs opens nothing in another."""
        model, raised = sew(), []

        def past():
            try:
                model.layer1(torch.randn(B, 8, 8, 8))
            except TimeFoldingError as error:
                raised.append(error)

        def during(*_):
            thread = threading.Thread(target=past)
            thread.start()
            thread.join()

        model.layer2.register_forward_hook(during)
        model(torch.randn(B, 3, 32, 32))
        assert len(raised) == 1

    @pytest.mark.kernels
    def test_compiled(self):
        model = short()
        x = torch.randn(B, 3, 32, 32)
        expected = model(x)[-1]
        torch.compiler.reset()
        assert torch.equal(torch.compile(model, backend='eager', fullgraph=True)(x)[-1], expected)
        stage = torch.compile(model.layer1, backend='eager', fullgraph=True)
        folded = torch.randn(T * B, 8, 8, 8)
        with time_folded(T * B):
            assert torch.equal(stage(folded), model.layer1(folded))
        with pytest.raises(Exception, match=PAST):
            stage(folded)

    @pytest.mark.kernels
    def test_a_part_that_no_compiler_takes(self):
        model = short()
        expected = model(x := torch.randn(B, 3, 32, 32))[-1]
        model.layer2[0].forward = torch.compiler.disable(model.layer2[0].forward)
        assert torch.equal(torch.compile(model, backend='eager')(x)[-1], expected)


class Mine(SEWResNet):
    """A user's own backbone, with a forward of its own."""

    def forward(self, x):
        return self.layer1(self._stem(x))


class WithoutEncoder(SEWResNet):
    def forward(self, x):
        return self.layer1(self.maxpool(self.stem(x)))


class TestSubclass:
    def test_own_forward(self):
        assert Mine(depth=18, T=T, base_channels=8)(torch.randn(B, 3, 32, 32)).shape[0] == T * B

    def test_that_forgets_the_encoder(self):
        with pytest.raises(TimeFoldingError, match=r'is given \(4, 4, 16, 16\), but its encoder gives 8 rows'):
            WithoutEncoder(depth=18, T=T, base_channels=8, deep_stem=True)(torch.randn(B, 3, 32, 32))


class Table(SpikingBackbone, nn.Module):
    """A user's backbone with a neuron that images do not pass."""

    def __init__(self):
        super().__init__()
        self.encoder, self.neuron, self.table = DirectEncoder(T), LIF(T), nn.Parameter(torch.randn(T, 4))
        self.claim_neurons()

    def forward(self, x):
        return self.encoder(x).sum() + self.neuron(self.table).sum(0)


def test_an_input_without_time():
    with pytest.raises(TimeFoldingError, match=r'Table.neuron \(T=2\) is given \(2, 4\).*8 rows'):
        Table()(torch.randn(B, 3, 8, 8))


def test_free_neurons():
    """Networks without a backbone of ours fold time themselves."""
    x = torch.randn(T, B, 5)
    net = nn.Sequential(nn.Linear(5, 7), LIF(T))
    assert net(fold(x)).shape == (T * B, 7) and net[1].owner is None
