"""R11: activation checkpointing changes no gradient, for every registered backbone and neuron."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

NEURONS = (dict(type='LIF', tau=1.7), dict(type='PLIF', init_tau=1.7))


def stages(model):
    """The largest parts that run one after another: stages, in our ResNets ``layer1`` to ``layer4``."""
    inner = getattr(model, 'backbone', model)
    named = [m for n, m in inner.named_children() if isinstance(m, nn.Sequential) and len(m)]
    lists = [m for n, m in inner.named_children() if isinstance(m, nn.ModuleList)]
    if len(named) == 1 and not lists:
        # layers in one row; the first has images as its input, which need no gradient
        return list(named[0])[1:]
    return named + [m for each in lists for m in each]


def gradients(model, x):
    model.zero_grad()
    outs = model.train()(x)
    sum((out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum() for out in outs).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize('reentrant', [False, True], ids=['', 'reentrant'])
@pytest.mark.parametrize('neuron', NEURONS, ids=lambda cfg: cfg['type'])
def test_each_stage(make_backbone, neuron, reentrant):
    model = make_backbone(T=2, neuron=neuron)
    # in double precision, because checkpointing may change the order of a sum
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    expected = gradients(model.double(), x)
    found = stages(model)
    assert len(found) >= 2
    for stage in found:
        forward = stage.forward
        calls = []

        def recompute(*args, forward=forward, calls=calls):
            def counted(*inputs):
                calls.append(1)
                return forward(*inputs)

            return checkpoint(counted, *args, use_reentrant=reentrant)

        stage.forward = recompute
        got = gradients(model, x)
        del stage.forward
        assert len(calls) == 2, 'was not checkpointed'
        for name, grad in expected.items():
            assert grad.abs().sum() > 0, name
            torch.testing.assert_close(got[name], grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('neuron', NEURONS, ids=lambda cfg: cfg['type'])
def test_built_in(make_backbone, neuron):
    """``with_cp`` of the backbone itself, block by block."""
    try:
        checkpointed = make_backbone(T=2, neuron=neuron, with_cp=True)
    except TypeError:
        pytest.skip('has no with_cp of its own')
    model = make_backbone(T=2, neuron=neuron)
    checkpointed.load_state_dict(model.state_dict())
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    expected, got = (gradients(m.double(), x) for m in (model, checkpointed))
    for name, grad in expected.items():
        torch.testing.assert_close(got[name], grad, rtol=1e-12, atol=1e-12)
