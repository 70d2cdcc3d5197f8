"""A batch of any size: one compiled graph, one exported program."""

import shutil

import pytest
import torch
from torch import nn
from torch._dynamo import config
from torch.export import Dim, export

from mmsnn.layers import DirectEncoder, Readout, SpikeConv2d, fold
from mmsnn.models import SEWResNet
from mmsnn.neurons import ILIF, LIF, PLIF
from mmsnn.ops import lif

T = 4


class Net(nn.Module):
    """Folds time; norms and neurons in one op or two, packed spikes."""

    def __init__(self, neuron=LIF, packed=False):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.neuron = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), neuron(T)
        self.last = SpikeConv2d(6, 2, 3) if packed else nn.Conv2d(6, 2, 3)

    def forward(self, x):
        x = self.conv(x)
        x = fold(x.unsqueeze(0).expand(T, *x.shape))
        return self.last(self.neuron.after_norm(self.norm, x))


@pytest.fixture
def one_graph():
    """Compiling a second time is an error."""
    torch.compiler.reset()
    before, config.error_on_recompile = config.error_on_recompile, True
    yield
    config.error_on_recompile = before


@pytest.mark.parametrize('neuron, packed, fuse_from', [(LIF, False, 2**17), (PLIF, True, 0)])
def test_compiled(one_graph, monkeypatch, neuron, packed, fuse_from):
    monkeypatch.setattr('mmsnn.neurons.base.FUSE_FROM', fuse_from)
    net, same = Net(neuron, packed), Net(neuron, packed)
    compiled = torch.compile(net, dynamic=True, fullgraph=True, backend='aot_eager')
    # the convolution of a CPU chooses its algorithm between 1, 4 and 16 images
    for size in (5, 7, 12):
        x = torch.randn(size, 3, 9, 11)
        for model, each in ((net, compiled), (same, same)):
            model.zero_grad()
            each(x).square().sum().backward()
        for (name, p), q in zip(net.named_parameters(), same.parameters()):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-4 * float(q.grad.abs().max()), msg=name)
        torch.testing.assert_close(net.norm.running_var, same.norm.running_var)


@pytest.mark.skipif(shutil.which('g++') is None, reason='no C++ compiler')
@pytest.mark.parametrize('frames', [False, True], ids=['images', 'event frames'])
def test_default_backend(one_graph, frames):
    """An encoder in front of a convolution, for images of any size."""
    torch.manual_seed(0)
    net = nn.Sequential(DirectEncoder(T), nn.Conv2d(3, 4, 3), LIF(T, v_threshold=0.3), Readout(T)).eval()
    compiled = torch.compile(net, dynamic=True, fullgraph=True)
    with torch.no_grad():
        for batch, size in ((2, 9), (3, 12)):
            x = torch.randn(batch, *[T] * frames, 3, size, size)
            torch.testing.assert_close(compiled(x), net(x))
            assert net(x).any()


def test_compiled_settings(one_graph):
    """Numbers that a compiler takes for symbols."""

    def spikes(x, tau):
        return lif(x, T, tau=tau, v_threshold=0.7, v_reset=None)

    compiled = torch.compile(spikes, dynamic=True, fullgraph=True, backend='aot_eager')
    for size in (8, 12, 20):
        x = 2 * torch.randn(size, 5)
        assert torch.equal(compiled(x, 1.7), spikes(x, 1.7)) and spikes(x, 1.7).any()


@pytest.mark.parametrize('fuse_from', [0, 1000, 2**17])
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_exported(monkeypatch, memory_format, fuse_from):
    """From 3 images, for 1 and more."""
    monkeypatch.setattr('mmsnn.neurons.base.FUSE_FROM', fuse_from)
    net = Net(ILIF if fuse_from else LIF).eval().to(memory_format=memory_format)
    sample = torch.randn(3, 3, 9, 11).contiguous(memory_format=memory_format)
    program = export(net, (sample,), dynamic_shapes=({0: Dim('batch', min=1)},))
    for size in (1, 2, 5, 90):
        x = torch.randn(size, 3, 9, 11).contiguous(memory_format=memory_format)
        out = program.module()(x)
        assert torch.equal(out, net(x)) and len(out) == T * size


def test_exported_backbone():
    small = dict(
        num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,), neuron=dict(type='LIF', v_threshold=0.2)
    )
    model = SEWResNet(18, T=T, base_channels=8, **small).eval()
    program = export(model, (torch.randn(3, 3, 32, 32),), dynamic_shapes=({0: Dim('batch', min=1)},))
    for size in (1, 5):
        x = torch.randn(size, 3, 32, 32)
        assert torch.equal(program.module()(x)[0], model(x)[0]) and model(x)[0].any()


def test_what_does_not_hold_time():
    """The op says so, where the graph is for any batch."""
    torch.compiler.reset()
    compiled = torch.compile(LIF(T), dynamic=True, backend='eager')
    assert compiled(torch.rand(8, 5)).shape == (8, 5)
    with pytest.raises(Exception, match='T=4'):
        compiled(torch.rand(9, 5))
