"""Networks that run step by step, and in NIR: what comes to the same as all steps at once, and what is refused."""

import logging
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import mmsnn
from mmsnn.deploy.graph import export
from mmsnn.deploy.network import Network
from mmsnn.deploy.step_check import near
from mmsnn.deploy.streaming import Streaming
from mmsnn.layers import DirectEncoder, Readout, fold, unfold
from mmsnn.neurons import LIF
from mmsnn.ops import bn_lif, lif

T = 3
X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0)) * 2


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class Net(nn.Module):
    """An encoder, a convolution, a neuron and a readout, which subclasses put together in their own ways."""

    def __init__(self, **neuron):
        super().__init__()
        self.encoder, self.readout = DirectEncoder(T), Readout(T)
        self.conv, self.again = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.neuron = LIF(T, **dict(v_threshold=0.3) | neuron)
        self.eval()

    def current(self, x):
        return self.conv(self.encoder(x))

    def forward(self, x):
        return self.readout(self.neuron(self.current(x)))


def in_steps(model, frames):
    """The outputs of a stream after the last of ``frames``."""
    stream = Streaming(model, torch.zeros_like(frames[0].repeat(2, *[1] * (frames[0].dim() - 1))))
    state = stream.start(len(frames[0]))
    with torch.no_grad():
        for frame in frames:
            out, state = stream(frame, state)
    return out


def check_steps_equal(model):
    """Steps of different images come to what the network makes of them at once, for one stream and for two."""
    for batch in (1, 2):
        frames = [torch.randn(batch, *X.shape[1:]) * 2 for _ in range(T)]
        with torch.no_grad():
            expected = model(torch.stack(frames, 1))
        assert expected.abs().max() > 0
        torch.testing.assert_close(in_steps(model, frames)[0], expected)


# What runs step by step -----------------------------------------------------------------------------------------------


def test_a_registered_surrogate_runs_step_by_step():
    """Spikes do not depend on the surrogate, so the graph has a membrane; the model keeps its surrogate."""
    mmsnn.register_surrogate('bell', lambda u, alpha: torch.exp(-alpha * u * u))
    model = Net(surrogate='bell', v_reset=None)
    assert Streaming(model, X).state_names == ['v_0', 'steps', 'sum_0']
    check_steps_equal(model)
    assert model.neuron.settings.surrogate == 'bell'


class Tokens(Net):
    """Neurons and a readout see the positions of an image in the first dimension, behind the images."""

    def forward(self, x):
        y = self.current(x)
        n, c, h, w = y.shape
        y = self.neuron(y.flatten(2).transpose(1, 2).reshape(n * h * w, c))
        return self.readout(y).view(-1, h * w, c).mean(1)


class Apart(Net):
    """The neuron sees time and images as two dimensions."""

    def forward(self, x):
        y = lif(unfold(self.current(x), self.readout.T), self.readout.T, v_threshold=0.3)
        return self.readout(fold(y))


class OneIsUnread(Net):
    """Nothing reads the second call of the neuron, so the graph has two of three."""

    def forward(self, x):
        y = self.neuron(self.current(x))
        self.neuron(self.again(y))
        return self.readout(self.neuron(self.again(y) + y))


@pytest.mark.parametrize('kind', [Net, Tokens, Apart, OneIsUnread])
def test_steps_equal_the_network(kind):
    check_steps_equal(kind())


def test_the_state_of_tokens_is_one_per_stream(tmp_path):
    stream = Streaming(Tokens(), X)
    state = stream.start(1)
    assert [tuple(each.shape) for each in state] == [(1, 36, 4), (1,), (1, 36, 4)]
    onnx = pytest.importorskip('mmsnn.deploy.to_onnx')
    pytest.importorskip('onnxruntime')
    onnx.save_onnx(stream.as_graph(), tmp_path / 'step.onnx')
    found = onnx.OnnxFile(tmp_path / 'step.onnx')(X[:1], *state)
    outputs, state = stream(X[:1], state)
    for a, b in zip(found, (*outputs, *state), strict=True):
        torch.testing.assert_close(a, b)


def test_outputs_may_keep_their_steps():
    model = nn.Sequential(DirectEncoder(T), nn.Conv2d(4, 4, 3), LIF(T, v_threshold=0.3)).eval()
    frames = [torch.randn_like(X) for _ in range(T)]
    with torch.no_grad():
        expected = model(torch.stack(frames, 1))[-2:]
    assert expected.any()
    assert torch.equal(in_steps(model, frames)[0], expected)


def test_a_network_with_one_time_step_streams():
    model = mmsnn.set_time_steps(Net(), 1)
    assert Streaming(model, X).output_names == ['output']


# What does not --------------------------------------------------------------------------------------------------------


def adaptive_neuron():
    """The neuron with an equation of its own that the documentation shows."""
    text = (Path(__file__).parents[2] / 'docs' / 'extend.md').read_text(encoding='utf-8')
    names = {}
    first, second = re.findall(r'```python\n(.*?)```', text, re.S)[:2]
    exec(first.replace('@MODELS.register_module()', ''), names)
    exec(second.replace('@MODELS.register_module()', ''), names)
    return names['AdaptiveLIF'](T)


class StartsHigh(Net):
    def forward(self, x):
        y = self.current(x)
        return self.readout(self.neuron(y, v_init=torch.full_like(x, 0.2)))


class BehindMean(Net):
    def forward(self, x):
        return self.readout(self.neuron(self.again(self.encoder(super().forward(x)))))


class OverTime(Net):
    """Currents are those of the step before."""

    def forward(self, x):
        y = unfold(self.neuron(self.current(x)), self.neuron.T)
        return self.readout(self.neuron(self.again(fold(y.roll(1, 0)))))


class FixedSteps(Net):
    def forward(self, x):
        return self.readout(lif(self.current(x), T))


class Fused(Net):
    def forward(self, x):
        norm = dict(weight=None, bias=None, running_mean=torch.zeros(4), running_var=torch.ones(4), training=False)
        return self.readout(bn_lif(self.current(x), self.readout.T, **norm))


class Reads(Net):
    """A network that combines its time steps by ``read``."""

    def __init__(self, read):
        super().__init__()
        self.read = read

    def forward(self, x):
        return self.read(unfold(self.neuron(self.current(x)), self.neuron.T))


def with_adaptive():
    model = Net()
    model.neuron = adaptive_neuron()
    return model


READS = {
    'sum': lambda y: y.sum(0),
    'largest': lambda y: y.amax(0),
    'mean over time and space': lambda y: y.mean((0, 3, 4)),
    'median': lambda y: y.sort(0).values[len(y) // 2],
}


@pytest.mark.parametrize(
    ('make', 'said'),
    [
        (with_adaptive, r'neuron \(AdaptiveLIF\) computes its spikes by an equation of its own'),
        (StartsHigh, r'neuron starts at a potential of its own \(v_init\)'),
        (BehindMean, 'neuron follows a mean over time'),
        (OverTime, 'neuron: run step by step, this neuron gets another current in time step 1'),
        (FixedSteps, 'the network calls mmsnn.ops.lif with a fixed number of time steps, 3'),
        (Fused, 'the network calls mmsnn.ops.bn_lif'),
        (lambda: Reads(lambda y: y.mean(0, keepdim=True)[0]), 'a mean over the first dimension in a form that is not'),
        (lambda: Reads(lambda y: fold(y).reshape(len(y), -1, 4, 6, 6).mean(0)), 'a mean over the first dimension'),
    ],
    ids=['adaptive', 'v_init', 'behind_mean', 'over_time', 'fixed', 'fused', 'keepdim', 'reshaped'],
)
def test_what_does_not_run_step_by_step_is_refused_by_name(make, said):
    sample = X.repeat(3, 1, 1, 1)
    with pytest.raises(ValueError, match=said) as error:
        Streaming(make(), sample)
    assert 'export all T steps' in str(error.value) or 'one after the other' in str(error.value)


@pytest.mark.parametrize('read', READS)
@pytest.mark.parametrize('threshold', [0.3, 1e6])
def test_another_readout_than_the_mean_is_refused(read, threshold):
    """Also in a network that never fires, whose outputs are all zero."""
    model = Reads(READS[read])
    model.neuron = LIF(T, v_threshold=threshold)
    with pytest.raises(ValueError, match='output: run step by step, this output is not that of the network at T=3'):
        Streaming(model.eval(), X)


def test_near_allows_rounding_alone():
    x = torch.randn(1000)
    assert near(x + 1e-6, x) and near(x.new_zeros(5), x.new_zeros(5))
    assert not near(x + 0.1, x) and not near(x[:500], x)
    off = x.clone()
    off[:10] += 1
    assert near(off, x)
    off[:11] += 1
    assert not near(off, x)


# Event-driven networks ------------------------------------------------------------------------------------------------


def test_an_event_driven_network_is_exported_without_its_engine(caplog):
    model = mmsnn.event_driven(Net())
    with caplog.at_level(logging.WARNING):
        network = Network(model)
        graph = export(network, X, network.output_names(X))
    assert 'torch.compile' not in caplog.text
    assert network.model.neuron.events is None and model.neuron.events is not None
    with torch.no_grad():
        torch.testing.assert_close(graph.module(X)[0], mmsnn.event_driven(model, enabled=False)(X))


# Norms and ONNX -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('padding', ['same', 'valid'])
def test_a_norm_is_folded_behind_a_convolution_with_padding_in_words(padding):
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=padding, bias=False), nn.BatchNorm2d(4))
    model[1].running_mean += 1
    network = Network(model)
    graph = export(network, X, ['output'])
    assert (graph.folded, graph.left) == (1, 0)
    torch.testing.assert_close(graph.module(X)[0], network(X)[0])


class Flat(Net):
    """A neuron hands its membrane to the next one, flat or in its shape; time may be a dimension of its own."""

    def __init__(self, flat, apart):
        super().__init__()
        self.flat, self.apart = flat, apart

    def forward(self, x):
        y = self.current(x)
        y = unfold(y, self.neuron.T) if self.apart else y
        _, v = lif(y, T, return_v=True)
        s, v = lif(y, T, v_threshold=0.3, v_init=v.flatten() if self.flat else v, return_v=True)
        return s, v


@pytest.mark.parametrize('flat', [True, False])
@pytest.mark.parametrize('apart', [True, False])
def test_an_initial_potential_of_any_form_is_the_same_in_onnx(flat, apart, tmp_path):
    onnx = pytest.importorskip('mmsnn.deploy.to_onnx')
    pytest.importorskip('onnxruntime')
    network = Network(Flat(flat, apart))
    onnx.save_onnx(export(network, X, network.output_names(X)), tmp_path / 'net.onnx')
    x = torch.randn(5, 4, 6, 6) * 2
    with torch.no_grad():
        expected = network(x)
    for found, each in zip(onnx.OnnxFile(tmp_path / 'net.onnx')(x), expected, strict=True):
        assert found.shape == each.shape
        torch.testing.assert_close(found, each)


# NIR ------------------------------------------------------------------------------------------------------------------


def nir_of(model):
    pytest.importorskip('nirtorch')
    from mmsnn.deploy.to_nir import NirExport

    return NirExport(model.eval(), X)


def layers(conv):
    return nn.Sequential(DirectEncoder(T), conv, LIF(T, v_threshold=0.2), nn.Conv2d(8, 4, 1), LIF(T), Readout(T))


@pytest.mark.parametrize(
    'conv',
    [
        dict(bias=False),
        dict(bias=False, padding=1),
        dict(groups=2),
        dict(groups=4, bias=False, stride=2),
        dict(padding='same', dilation=2),
        dict(padding='valid'),
    ],
    ids=str,
)
def test_every_convolution_is_read_back_equal(conv, tmp_path):
    from mmsnn.deploy.nir_readers import read_back

    model = layers(nn.Conv2d(4, 8, 3, **conv))
    found = nir_of(model)
    assert found.whole and not found.refusals
    pytest.importorskip('spikingjelly')
    frames = torch.randn(T, 1, *X.shape[1:]) * 3
    (differences,) = read_back(found, found.save(tmp_path / 'net.nir'), frames)
    assert max(differences.values()) < 1e-5
    with torch.no_grad():
        assert model[:3](frames.transpose(0, 1)).any()


def test_a_convolution_that_nir_takes_for_another_is_refused_by_name():
    found = nir_of(layers(nn.Conv2d(4, 8, (3, 1))))
    assert [str(each) for each in found.refusals] == [
        '1: conv2d: the package nir takes every kernel for one as wide as it is high: use square kernels'
    ]
    assert not found.whole and found.parts


def test_an_error_of_nir_is_a_refusal_that_names_modules(monkeypatch):
    nir = pytest.importorskip('nir')

    def fails(*args, **kwargs):
        raise AssertionError('no such graph')

    monkeypatch.setattr(nir, 'NIRGraph', fails)
    with pytest.raises(ValueError, match='from inputs to 4: NIRGraph: the package nir says: no such graph'):
        nir_of(layers(nn.Conv2d(4, 8, 3)))


def test_nir_has_no_initial_potential():
    with pytest.raises(ValueError, match=r'neuron: lif: NIR has no neuron with an initial potential of its own'):
        nir_of(StartsHigh())


def test_nir_of_a_network_without_neurons_says_why():
    with pytest.raises(ValueError, match="exported to NIR: no output depends on spikes of mmsnn's neurons"):
        nir_of(nn.Sequential(DirectEncoder(T), nn.Conv2d(4, 8, 3), Readout(T)))


@pytest.mark.parametrize('make', [with_adaptive, BehindMean, OverTime])
def test_nir_is_of_networks_that_run_step_by_step(make):
    with pytest.raises(ValueError, match='neuron'):
        nir_of(make())


class TwoOutputs(Net):
    def forward(self, x):
        y = super().forward(x)
        return y, y.softmax(1)


def test_a_file_that_lacks_an_output_is_not_whole():
    assert nir_of(Net()).whole
    found = nir_of(TwoOutputs())
    assert len(found.parts) == 1 and not found.whole


def test_a_sum_over_time_stays_outside_nir(tmp_path):
    """The part before it is the network without its readout."""
    from mmsnn.deploy.nir_readers import read_back

    found = nir_of(Reads(READS['sum']))
    assert [str(each) for each in found.refusals] == ['the network: sum: NIR has no such operation']
    pytest.importorskip('spikingjelly')
    (differences,) = read_back(found, found.save(tmp_path / 'net.nir'), torch.randn(T, 1, *X.shape[1:]))
    assert max(differences.values()) < 1e-5


class OverTimeInTheEnd(Net):
    """The steps change their places by an operation that a single step does not show."""

    def forward(self, x):
        y = unfold(self.neuron(self.current(x)), self.neuron.T)
        return fold(y.transpose(0, 1))


def test_outputs_of_a_whole_nir_file_are_those_of_the_network():
    with pytest.raises(ValueError, match='the mean of the outputs of 3 steps is not the output of the network'):
        nir_of(OverTimeInTheEnd())
