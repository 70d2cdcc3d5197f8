"""R09: any number of time steps, causality, silence, and a table worked out by hand, for every registered neuron."""

import pytest
import torch

from mmsnn.layers import unfold

STEPS = (1, 2, 4, 5, 8)

# default settings; input current of each step, spikes, last potential
TABLES = {
    # h = .5, 1.25 fires, -1, 1.5 fires
    'IF': ([0.5, 0.75, -1.0, 2.5], [0, 1, 0, 1], 0.0),
    # h = .75, .75 + .375 = 1.125 fires, .5, .5 + .25 = .75
    'LIF': ([1.5, 1.5, 1.0, 1.0], [0, 1, 0, 0], 0.75),
    # tau starts at 2
    'PLIF': ([1.5, 1.5, 1.0, 1.0], [0, 1, 0, 0], 0.75),
    # a quarter of v stays: 2.5 rounds to the even 2, .5 is left; .125 + 4 gives 4; .03125; .0078125 - 2
    'ILIF': ([2.5, 4.0, 0.0, -2.0], [2, 4, 0, 0], 0.0078125 - 2),
}


@pytest.mark.parametrize('T', STEPS)
def test_any_number_of_steps(neuron_type, T):
    """T steps at once equal T neurons of one step that hand the potential on."""
    x = torch.randn(T, 3, 7) * 1.5
    whole, last = neuron_type(T=T)(x.flatten(0, 1), return_v=True)
    assert whole.shape == (T * 3, 7)
    single, v, steps = neuron_type(T=1), None, []
    for current in x:
        out, v = single(current, v_init=v, return_v=True)
        steps.append(out)
    assert torch.equal(unfold(whole, T), torch.stack(steps)) and torch.equal(last, v)
    assert whole.any()


@pytest.mark.parametrize('T', STEPS)
def test_causality(neuron_type, T):
    """What comes later changes nothing earlier, and an image's spikes depend on no other image."""
    neuron = neuron_type(T=T)
    x = torch.randn(T, 3, 20) * 1.5
    out = unfold(neuron(x.flatten(0, 1)), T)
    for t in range(T):
        y = x.clone()
        y[t:, 1] += 5
        changed = unfold(neuron(y.flatten(0, 1)), T)
        assert torch.equal(changed[:t], out[:t])
        assert torch.equal(changed[:, [0, 2]], out[:, [0, 2]])
        assert not torch.equal(changed[t:, 1], out[t:, 1])


@pytest.mark.parametrize('T', STEPS)
def test_gradient_is_causal(neuron_type, T):
    x = torch.randn(T, 2, 20, requires_grad=True)
    for t in range(T):
        (grad,) = torch.autograd.grad(unfold(neuron_type(T=T)(x.flatten(0, 1)), T)[t].sum(), x)
        assert grad[: t + 1].abs().sum((1, 2)).gt(0).all()
        assert not grad[t + 1 :].any()


@pytest.mark.parametrize('T', STEPS)
def test_silence(neuron_type, T):
    """Zero in, zero out, and a potential that stays where it is."""
    out, v = neuron_type(T=T)(torch.zeros(T * 2, 5), return_v=True)
    assert not out.any() and not v.any()


def test_table(neuron_type):
    name = neuron_type.__name__
    assert name in TABLES, f'work out a table for {name} by hand and add it to TABLES'
    current, spikes, last = TABLES[name]
    out, v = neuron_type(T=len(current))(torch.tensor(current), return_v=True)
    assert out.tolist() == spikes
    assert v.item() == pytest.approx(last, abs=1e-6)


def test_number_of_steps_is_the_modules_own(neuron_type):
    """T comes from the module: the same numbers as 2 x 3 or 3 x 2 give different spikes."""
    x = torch.full((6, 40), 0.8) + torch.rand(6, 40)
    two, three = neuron_type(T=2), neuron_type(T=3)
    assert not torch.equal(two(x), three(x))
    two.T = 3
    assert torch.equal(two(x), three(x))
