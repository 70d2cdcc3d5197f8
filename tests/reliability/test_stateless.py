"""R08: nothing of one forward is left for the next, in any registered neuron or backbone."""

import pytest
import torch
from torch import nn

from mmsnn.layers import fold


def tensors_of(value):
    """Tensors in a value, also inside containers."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_of(item)
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from tensors_of(item)


def attributes(model):
    """Every attribute of every module that holds a tensor and is neither a parameter nor a buffer."""
    own = {'_parameters', '_buffers', '_modules'}
    return {
        f'{name}.{key}'
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if key not in own and next(tensors_of(value), None) is not None
    }


class Questions:
    """The five questions; subclasses say what is asked and with which input."""

    def make(self):
        raise NotImplementedError

    def inputs(self, batch):
        """A batch of so many images."""
        raise NotImplementedError

    def permute(self, x, order):
        """The batch in another order; works on inputs and on outputs."""
        raise NotImplementedError

    @staticmethod
    def equal(a, b):
        return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))

    def test_equal_calls_are_equal(self):
        model, x = self.make(), self.inputs(5)
        first, second = model(x), model(x)
        assert self.equal(first, second)
        assert all(out.std() > 0 for out in first)

    def test_other_batches_in_between_change_nothing(self):
        """Sizes 8, 8, 5, 1, 8: the batches of an epoch's end, of testing, and of the next epoch."""
        model = self.make()
        batches = [self.inputs(n) for n in (8, 8, 5, 1)]
        batches.append(batches[0])
        outs = [model(x) for x in batches]
        assert self.equal(outs[0], outs[-1])
        for x, out in zip(batches, outs):
            assert self.equal(self.make()(x), out)

    def test_permutation_commutes(self):
        model, x = self.make(), self.inputs(5)
        order = torch.tensor([3, 0, 4, 1, 2])
        outs = [self.permute(out, order) for out in model(x)]
        for a, b in zip(outs, model(self.permute(x, order))):
            assert torch.equal(a, b)
        assert not any(torch.equal(self.permute(out, order), out) for out in model(x))

    def test_no_tensor_stays(self):
        model = self.make()
        before = attributes(model)
        for train in (True, False):
            sum(out.sum() for out in model.train(train)(self.inputs(5))).backward()
            assert attributes(model) == before == set()

    def test_state_dict_is_constant(self):
        model = self.make()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        for n in (8, 5):
            model(self.inputs(n))
        after = model.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[k], v) for k, v in before.items())
        model.train()(self.inputs(5))
        assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in before.items()}


class TestNeuron(Questions):
    @pytest.fixture(autouse=True)
    def _kind(self, neuron_type):
        self.neuron_type = neuron_type

    def make(self):
        # a module, because the others return one output a stage
        return Listed(self.neuron_type(T=3))

    def inputs(self, batch):
        return fold(torch.randn(3, batch, 4, 5, 5) * 1.5).requires_grad_()

    def permute(self, x, order):
        return fold(x.unflatten(0, (3, -1))[:, order])


class Listed(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return [self.module(x)]


class TestBackbone(Questions):
    @pytest.fixture(autouse=True)
    def _kind(self, make_backbone):
        self.make_backbone = make_backbone
        self.state = None

    def make(self):
        model = self.make_backbone(T=3).eval().double()
        if self.state is None:
            self.state = {k: v.clone() for k, v in model.state_dict().items()}
        model.load_state_dict(self.state)
        return model

    def inputs(self, batch):
        # in double precision, because convolutions of other batch sizes may round differently
        return torch.randn(batch, 3, 32, 32, dtype=torch.float64)

    def permute(self, x, order):
        return x[order]
