"""Memory accesses and the quantised twin: by hand, and as SpikingJelly counts them."""

import io

import pytest
import torch
from rich.console import Console
from torch import nn

from mmsnn.analysis import count_energy
from mmsnn.analysis.energy import ATTENTION, SPIKE
from mmsnn.analysis.hardware import BIT_PJ, levels_in_bits, quantised
from mmsnn.layers import DirectEncoder, Readout
from mmsnn.layers.attention import spiking_attention
from mmsnn.models import Spikformer
from mmsnn.neurons import IF, ILIF, LIF

T = 4


class Net(nn.Module):
    """Two convolutions behind spikes, one of them strided, and a linear layer behind the readout."""

    def __init__(self, neuron=IF, width=6):
        super().__init__()
        self.encoder = DirectEncoder(T)
        self.spikes = neuron(T)
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.neuron1 = neuron(T)
        self.conv2 = nn.Conv2d(width, 4, 3, stride=2, padding=1, bias=False)
        self.neuron2 = neuron(T)
        self.readout = Readout(T)
        self.head = nn.Linear(4, 5, bias=False)

    def forward(self, x):
        x = self.neuron1(self.conv1(self.spikes(self.encoder.repeat(x))))
        return self.head(self.readout(self.neuron2(self.conv2(x))).mean((2, 3)))


@pytest.fixture
def net():
    model = Net()
    for conv in (model.conv1, model.conv2):
        nn.init.uniform_(conv.weight, -0.1, 0.5)
    return model


@pytest.fixture
def report(net):
    return count_energy(net, torch.rand(2, 3, 8, 8))


def test_weights_and_membranes_are_those_of_spikingjelly(net, report):
    """NeuromorphicMemoryAccessCounter of SpikingJelly 2.0.0: weights by fan-out, membranes read and written a step."""
    pytest.importorskip('spikingjelly')
    from spikingjelly.activation_based import functional, layer, neuron
    from spikingjelly.activation_based.op_counter.base import ModuleCounterMode
    from spikingjelly.activation_based.op_counter.neuromorphic_memory_access import NeuromorphicMemoryAccessCounter

    theirs = nn.Sequential(
        neuron.IFNode(), layer.Conv2d(3, 6, 3, padding=1, bias=False),
        neuron.IFNode(), layer.Conv2d(6, 4, 3, stride=2, padding=1, bias=False), neuron.IFNode(),
    )  # fmt: skip
    functional.set_step_mode(theirs, 'm')
    for mine, other in ((net.conv1, theirs[1]), (net.conv2, theirs[3])):
        other.weight.data.copy_(mine.weight)
    torch.manual_seed(0)
    images = torch.rand(2, 3, 8, 8)
    found = count_energy(net, images)
    counter = NeuromorphicMemoryAccessCounter()
    # its membranes are there after a first step alone
    with torch.no_grad():
        functional.reset_net(theirs)
        with ModuleCounterMode([counter], model=theirs):
            theirs(images.repeat(T, 1, 1, 1, 1))
    total = counter.get_counts()['Global']
    weights = sum(4 * layer.acs for layer in found.layers if layer.rule == SPIKE)
    assert weights * 2 == total['weight_read_bytes'] > 0
    membranes = found.comparison.student.bytes['membranes']
    assert membranes * 2 == total['neuron_state_read_bytes'] + total['neuron_state_write_bytes'] > 0


def test_by_hand(report):
    """All four networks, every column."""
    conv1, conv2, head = report.layers
    assert report.total('macs') == 20 and conv1.rule == conv2.rule == SPIKE
    acs = conv1.acs + conv2.acs
    inputs = T * 3 * 64, T * 6 * 64, 4
    assert [layer.inputs for layer in report.layers] == list(inputs)
    twin_macs = 64 * 6 * 27 + 16 * 4 * 54 + 20
    found = report.comparison
    assert found.bits == 3  # 0 to 4
    one, two, three, four = found.costs
    bit = BIT_PJ * 1e-6
    assert one.compute == pytest.approx((acs * 0.9 + 20 * 4.6) * 1e-6)
    assert one.weights == pytest.approx((acs + 20) * 32 * bit)
    assert one.activations == pytest.approx(2 * (inputs[0] + inputs[1] + 4 * 32) * bit)
    updates = T * (3 * 64 + 6 * 64 + 4 * 16)
    assert one.membranes == pytest.approx(2 * updates * 32 * bit) and report.neuron_updates == updates
    assert two.compute == pytest.approx(twin_macs * 4.6e-6) and two.membranes == 0
    assert two.weights == pytest.approx(twin_macs * 32 * bit)
    assert two.activations == pytest.approx(2 * (3 * 64 + 6 * 64 + 4) * 32 * bit)
    assert three.compute == pytest.approx((acs * 0.1 + 20 * 0.3) * 1e-6)
    assert three.weights == pytest.approx((acs + 20) * 8 * bit)
    assert three.activations == pytest.approx(2 * (inputs[0] + inputs[1] + 4 * 8) * bit)
    assert three.membranes == one.membranes
    assert four.compute == pytest.approx(twin_macs * (0.2 * 3 / 8 + 0.1) * 1e-6)
    assert four.weights == pytest.approx(twin_macs * 8 * bit)
    assert four.activations == pytest.approx(2 * (3 * 64 + 6 * 64 + 4) * 3 * bit)


@pytest.mark.parametrize('levels, bits', [(1, 1), (2, 2), (3, 2), (4, 3), (7, 3), (8, 4), (16, 5)])
def test_bits_of_levels(levels, bits):
    assert levels_in_bits(levels) == bits


def test_ilif_has_more_levels():
    report = count_energy(Net(lambda T: ILIF(T, levels=4)), torch.rand(1, 3, 8, 8) * 3)
    assert report.comparison.bits == 5  # 0 to 16


def test_crossover():
    """With that many spikes in every layer, the student costs what its twin costs."""
    model = Net(width=64)
    for conv in (model.conv1, model.conv2):
        nn.init.uniform_(conv.weight, -0.1, 0.2)
    report = count_energy(model, torch.rand(2, 3, 8, 8))
    found = report.comparison
    for crossover, student, twin, (ac, weight) in (
        (found.crossover, found.student, found.twin, (0.9, 32)),
        (found.crossover8, found.student8, found.twin8, (quantised(3).ac_pj, 8)),
    ):
        events = report.total('acs') * (ac + weight * BIT_PJ) * 1e-6
        factor = crossover / found.rate
        assert student.total + (factor - 1) * events == pytest.approx(twin.total)
    assert 0 < found.crossover8 < 1 and 0 < found.crossover < 1


def test_no_crossover_where_membranes_alone_cost_more():
    model = nn.Sequential(LIF(T=1), nn.Linear(4, 1, bias=False))
    report = count_energy(model, torch.full((2, 4), 5.0))
    assert report.comparison.crossover8 is None
    assert 'at no firing rate' in report.comparison.table().caption


def test_ann_has_no_twin():
    assert count_energy(nn.Linear(3, 4), torch.rand(1, 3)).comparison is None


class Attention(nn.Module):
    def __init__(self, neuron):
        super().__init__()
        self.encoder, self.neuron, self.linear = DirectEncoder(2), neuron, nn.Linear(4, 4)

    def forward(self, x):
        q, k, v = self.neuron(self.encoder.repeat(x)).chunk(3, 1)
        return self.linear(spiking_attention(q, k, v, num_heads=2))


def test_products_of_spiking_attention():
    """As the papers count them: the rate of a factor times the dense operations, here of the sparser factor."""
    x = (torch.rand(3, 12, 3, 4) < torch.rand(1, 12, 1, 1)) * 2.0
    model = Attention(IF(2))
    report = count_energy(model, x)
    found = report.layers[-1]
    q, k, v = (s.flatten(2).unflatten(1, (2, -1)) for s in model.neuron(x.repeat(2, 1, 1, 1)).chunk(3, 1))
    # k^T v first: 12 positions, heads of 2 channels
    first = min(v.sum() * 2, k.sum() * 2)
    second = q.sum() * 2
    assert (found.name, found.rule) == (ATTENTION, SPIKE)
    assert found.acs == pytest.approx((first + second).item() / 3)
    assert found.twin_macs == 2 * 12 * 2 * 2 * 2 and report.uncounted_macs == 0
    assert report.comparison.student.compute > 0.9e-6 * found.acs


def test_a_whole_transformer(lively):
    model = lively(Spikformer(arch=dict(embed_dims=32, num_layers=2, num_heads=2), T=2))
    report = count_energy(model, torch.rand(1, 3, 32, 32))
    found = report.layers[-1]
    assert found.name == ATTENTION and report.uncounted_macs == 0
    assert 0 < found.acs < 2 * found.twin_macs and 0 < found.density < 1


def test_table(report):
    console = Console(width=170, record=True, file=io.StringIO())
    console.print(report.comparison.table(dict(dense=1.5, events=None)))
    text = ' '.join(console.export_text().split())
    for words in ('SNN, T=4, fp32', '8-bit weights, 3-bit activations', 'dense 1.50 ms, events not run', 'MB moved'):
        assert words in text
    assert f'As expensive as the fp32 twin at a firing rate of {report.comparison.crossover:.1%}' in text
