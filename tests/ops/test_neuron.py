"""`mmsnn.NeuronSettings`: one object in the place of keywords."""

import copy
import dataclasses
import inspect
import pickle

import ops_checks
import pytest
import torch

from mmsnn import NeuronSettings
from mmsnn.neurons import LIF, Neuron
from mmsnn.ops import bn_lif, fallback, lif, reference
from mmsnn.ops.neuron import NAMES, decode

GIVEN = dict(tau=1.7, v_threshold=0.7, v_reset=None, detach_reset=True, surrogate='sigmoid', alpha=3.0)
SETTINGS = NeuronSettings(**GIVEN)


@pytest.mark.parametrize('op', [lif, reference.lif])
def test_object_and_keywords(op):
    x = torch.randn(8, 5)
    assert torch.equal(op(x, 4, SETTINGS), op(x, 4, **GIVEN)) and op(x, 4, SETTINGS).any()
    # a keyword changes one of the object's
    changed = dataclasses.replace(SETTINGS, v_threshold=0.2)
    assert torch.equal(op(x, 4, SETTINGS, v_threshold=0.2), op(x, 4, changed))
    assert not torch.equal(op(x, 4, changed), op(x, 4, SETTINGS))


@pytest.mark.parametrize('op', [bn_lif, reference.bn_lif])
def test_behind_batch_norm(op):
    norm = torch.randn(8, 5), 4, torch.zeros(5), torch.ones(5)
    assert torch.equal(op(*norm, settings=SETTINGS), op(*norm, **GIVEN)) and op(*norm, settings=SETTINGS).any()


def test_learned_time_constant_beside_settings():
    x, tau = torch.randn(8, 5), torch.tensor(1.7, requires_grad=True)
    for settings in (NeuronSettings(tau=None), NeuronSettings(tau=3.0), None):
        out = lif(x, 4, settings, tau=tau)
        assert torch.equal(out, lif(x, 4, tau=1.7))
        assert torch.autograd.grad(out.sum(), tau)[0] != 0


def test_fixed_equal_and_copied():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SETTINGS.tau = 2.0
    assert NeuronSettings(surrogate='ATan') == NeuronSettings() and hash(NeuronSettings()) == hash(NeuronSettings())
    for other in (copy.deepcopy(SETTINGS), pickle.loads(pickle.dumps(SETTINGS)), dataclasses.replace(SETTINGS)):
        assert other == SETTINGS and other.encoded == SETTINGS.encoded


@pytest.mark.parametrize('number', range(12))
def test_encoding_is_undone(number):
    settings = NeuronSettings(tau=2.0, **ops_checks.settings(number))
    found, smooth = decode(*settings.encoded)
    expected = dataclasses.replace(settings, alpha=settings.steepness, rounded=settings.rounds)
    assert found == expected and not smooth
    assert decode(*settings.encode(smooth=True))[1]


@pytest.mark.parametrize('op', [lif, bn_lif, reference.lif, reference.bn_lif, Neuron.__init__])
def test_signatures_show_every_setting(op):
    shown = inspect.signature(op).parameters
    assert all(shown[name].default == getattr(NeuronSettings(), name) for name in NAMES)


def test_named_errors():
    x = torch.randn(8, 5)
    for settings, error, match in (
        (dict(taau=2.0), TypeError, 'taau: no setting of a neuron; the settings are tau, '),
        (dict(levels=True), TypeError, 'levels must be an int'),
        (dict(decay_input=1), TypeError, 'decay_input must be True or False'),
        (dict(tau=[2.0]), TypeError, 'tau must be a number'),
        (dict(v_reset=2.0), ValueError, 'v_reset must lie below v_threshold=1.0'),
    ):
        # the value that equals it and is right does not hide it
        lif(x, 4, levels=1, decay_input=True)
        for op in (lif, reference.lif):
            with pytest.raises(error, match=match):
                op(x, 4, **settings)
    with pytest.raises(TypeError, match='settings must be a NeuronSettings, got 2.0'):
        lif(x, 4, 2.0)
    with pytest.raises(TypeError, match="tau must be a number.*type='PLIF'"):
        LIF(tau=torch.tensor(2.0))


@pytest.mark.parametrize(
    'kind, values',
    [
        ([0, 0, 0, 0, 1], [0.5, 1.0, 0.0, 1.0]),
        ([1, 0, 0, 0, 1, 0], [0.0, 1.0, 0.0, 1.0]),
        ([1, 0, 0, 0, 1, 0], [float('nan'), 1.0, 0.0, 1.0]),
        ([2, 0, 0, 0, 1, 0], [1.5, 1.0, 0.0, 1.0]),
        ([1, 2, 0, 0, 1, 0], [0.5, 1.0, 0.0, 1.0]),
        ([1, 0, 99, 0, 1, 0], [0.5, 1.0, 0.0, 1.0]),
        ([1, 0, 0, 0, 256, 0], [0.5, 1.0, 0.0, 1.0]),
        ([1, 0, 0, 0, 1, 2], [0.5, 1.0, 0.0, 1.0]),
    ],
)
def test_numbers_of_no_neuron(kind, values):
    with pytest.raises(ValueError):
        decode(kind, values)


def test_any_shape_of_one_time_constant():
    x, grad, tau = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([[1.7]])
    call = (grad, None, x, 2, *NeuronSettings().encoded, tau, None)
    got, expected = torch.ops.mmsnn.lif_backward(*call), fallback.lif_backward(*call)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b)
    assert got[1].shape == tau.shape and got[1].any()
    call = (x, 2, *NeuronSettings().encoded, tau, None, False)
    assert torch.equal(torch.ops.mmsnn.lif(*call)[0], fallback.lif(*call)[0])
    # a neuron that does not leak has no use for it
    call = (grad, None, x, 2, *NeuronSettings(tau=None).encoded, tau, None)
    assert fallback.lif_backward(*call)[1].equal(torch.zeros(1, 1))
