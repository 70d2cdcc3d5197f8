"""R04: gradcheck in float64 with the surrogate's integral for the step; with spikes, the reference's gradient."""

import pytest
import torch
from ops_checks import check_parity

from mmsnn.ops import NeuronSettings, lif, reference
from mmsnn.ops.bn_lif import _BatchNormLIF, batch_statistics

SETTINGS = [
    dict(tau=2.0, v_threshold=1.0, v_reset=0.0, decay_input=True, detach_reset=False),
    dict(tau=1.7, v_threshold=1.0, v_reset=0.0, decay_input=False, detach_reset=False),
    dict(tau=1.7, v_threshold=0.7, v_reset=-0.3, decay_input=True, detach_reset=False),
    dict(tau=1.7, v_threshold=0.7, v_reset=0.2, decay_input=False, detach_reset=False),
    dict(tau=2.0, v_threshold=1.0, v_reset=None, decay_input=True, detach_reset=False),
    dict(tau=1.3, v_threshold=0.5, v_reset=None, decay_input=False, detach_reset=False),
    dict(tau=None, v_threshold=1.0, v_reset=0.0, decay_input=True, detach_reset=False),
    dict(tau=None, v_threshold=0.7, v_reset=None, decay_input=True, detach_reset=False),
]
T = 18  # more than the sixteen steps that the compiled kernels keep at a time

each_setting = pytest.mark.parametrize('setting', SETTINGS, ids=str)
each_surrogate = pytest.mark.parametrize('surrogate', reference.SURROGATES)


def smooth(setting, surrogate):
    return NeuronSettings(**setting, surrogate=surrogate).encode(smooth=True)


def noise(*shape):
    """Drawn at random: no kink of a surrogate lies within gradcheck's 1e-6 of a potential."""
    return torch.randn(*shape, dtype=torch.float64).requires_grad_()


def constant(setting):
    return None if setting['tau'] is None else torch.tensor(setting['tau'], dtype=torch.float64, requires_grad=True)


@each_setting
@each_surrogate
def test_lif(setting, surrogate):
    kind, values = smooth(setting, surrogate)

    def op(x, tau, v_init):
        return torch.ops.mmsnn.lif(x, T, kind, values, tau, v_init, True)

    inputs = noise(T, 2), constant(setting), noise(2)
    assert torch.autograd.gradcheck(op, inputs)
    # the twin is the function that the reference says
    out, v = reference.lif(
        inputs[0], T, **{**setting, 'tau': inputs[1]}, surrogate=surrogate, v_init=inputs[2], return_v=True, smooth=True
    )
    torch.testing.assert_close(op(*inputs), (out, v))


@each_setting
@each_surrogate
@pytest.mark.parametrize('training', [True, False], ids=['training', 'evaluation'])
def test_bn_lif(setting, surrogate, training):
    kind, values = smooth(setting, surrogate)
    running = torch.tensor([0.3, -0.2], dtype=torch.float64), torch.tensor([0.8, 1.4], dtype=torch.float64)

    def op(x, weight, bias, tau, v_init):
        mean, var, count = batch_statistics(x.detach(), None) if training else (*running, None)
        neuron = 3, kind, values
        return _BatchNormLIF.apply(x, weight, bias, mean, var, tau, v_init, 1e-5, count, None, neuron, True)

    assert torch.autograd.gradcheck(op, (noise(6, 2, 3), noise(2), noise(2), constant(setting), noise(2, 2, 3)))


@each_setting
@each_surrogate
@pytest.mark.parametrize('detach_reset', [False, True], ids=['', 'detached'])
def test_spikes(setting, surrogate, detach_reset):
    """The gradient of spikes is no derivative; it is the reference's."""
    neuron = {**setting, 'detach_reset': detach_reset, 'surrogate': surrogate, 'alpha': None, 'levels': 1}
    tau = neuron.pop('tau')
    rest = dict(layout='contiguous', how='none' if tau is None else 'learned', v_init=True)
    check_parity(lif, dict(T=T, size=63, dtype=torch.float64, tau=tau, **rest, neuron=neuron))
