"""R10: after a backward pass models are copied, pickled, averaged, converted and compiled like any other."""

import copy
import io
import pickle

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from torch import nn

from mmsnn.neurons import Neuron


class Layers(nn.Module):
    """A neuron with a convolution before it."""

    def __init__(self, neuron):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.neuron = neuron

    def forward(self, x):
        return [self.neuron(self.norm(self.conv(x)))]


def trained(model, batch, T=2):
    """The model after a step; its input for evaluation."""
    images = 1 if isinstance(model, Layers) else T
    x = torch.randn(batch * T // images, 3, 32, 32)
    sum(out.sum() for out in model.train()(x)).backward()
    torch.optim.SGD(model.parameters(), 1e-3).step()
    return x


def outputs(model, x):
    with torch.no_grad():
        return [out.detach() for out in model.eval()(x)]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))


class Questions:
    def test_deepcopy(self):
        model = self.make()
        x = trained(model, 4)
        expected = outputs(model, x)
        other = copy.deepcopy(model)
        assert same(outputs(other, x), expected)
        for parameter in other.parameters():
            parameter.data.add_(1)
        assert same(outputs(model, x), expected) and not same(outputs(other, x), expected)
        assert {id(m) for m in model.modules()}.isdisjoint({id(m) for m in other.modules()})

    def test_pickle(self):
        model = self.make()
        x = trained(model, 4)
        expected = outputs(model, x)
        assert same(outputs(pickle.loads(pickle.dumps(model)), x), expected)
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        other = self.make()
        other.load_state_dict(torch.load(file, weights_only=True))
        assert same(outputs(other, x), expected)

    def test_moving_average(self):
        """Batches of 2 and 4: the average is made at one size and used at another."""
        model = self.make()
        average = ExponentialMovingAverage(model, momentum=0.25)
        trained(model, 2)
        average.update_parameters(model)
        first = [p.detach().clone() for p in model.parameters()]
        x = trained(model, 4)
        average.update_parameters(model)
        for old, now, mean in zip(first, model.parameters(), average.module.parameters()):
            torch.testing.assert_close(mean, old + 0.25 * (now - old))
        assert [out.shape for out in outputs(average.module, x)] == [out.shape for out in outputs(model, x)]
        # and the model goes on
        trained(model, 2)
        average.update_parameters(model)

    def test_double_precision(self):
        model = self.make().double()
        x = torch.randn(*trained(self.make(), 4).shape, dtype=torch.float64)
        outs = model.train()(x)
        sum(out.sum() for out in outs).backward()
        assert all(out.dtype == torch.float64 for out in outs)
        assert all(p.grad.dtype == torch.float64 and p.grad.isfinite().all() for p in model.parameters())

    def test_compile(self):
        """With the backend that needs no compiler; the neurons break no graph."""
        model = self.make()
        x = trained(model, 4)
        model.zero_grad()
        model.eval()
        expected = model(x)
        sum(out.sum() for out in expected).backward()
        gradients = [p.grad.clone() for p in model.parameters()]
        torch._dynamo.reset()
        compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
        model.zero_grad()
        got = compiled(x)
        sum(out.sum() for out in got).backward()
        for a, b in zip(got, expected):
            torch.testing.assert_close(a, b)
        for p, expected in zip(model.parameters(), gradients):
            torch.testing.assert_close(p.grad, expected, rtol=1e-4, atol=1e-4)
        torch._dynamo.reset()


class TestNeuron(Questions):
    @pytest.fixture(autouse=True)
    def _kind(self, neuron_type, lively):
        self.make = lambda: lively(Layers(neuron_type(T=2)), torch.randn(6, 3, 32, 32))


class TestBackbone(Questions):
    @pytest.fixture(autouse=True)
    def _kind(self, make_backbone):
        self.make = lambda: make_backbone(T=2)

    def test_all_neurons_are_there(self):
        assert sum(isinstance(m, Neuron) for m in self.make().modules()) > 4
