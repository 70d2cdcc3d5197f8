"""R01: `torch.library.opcheck` finds nothing in any op: schema, fakes, autograd, tracing with dynamic shapes."""

import itertools

import pytest
import torch
from ops_checks import ARGUMENTS, EVENT_OPS, Sample
from torch._subclasses.fake_tensor import FakeTensorMode

SAMPLES = range(12)
TESTS = ('test_schema', 'test_autograd_registration', 'test_faketensor', 'test_aot_dispatch_dynamic')
# the others are parts of the backward pass of a Python function
DIFFERENTIABLE = ('lif', 'event_conv')
# whose outputs are integers
WHOLE = 'pack', 'unpack', 'event_lif', 'event_max_pool', 'event_count'


def test_every_op_is_here():
    names = {name.split('::')[1].split('.')[0] for name in torch._C._dispatch_get_all_op_names() if 'mmsnn::' in name}
    assert names == set(ARGUMENTS)


@pytest.mark.parametrize('i', SAMPLES)
@pytest.mark.parametrize(
    'name, grad',
    [(n, g) for n, g in itertools.product(ARGUMENTS, (False, True)) if not g or n in DIFFERENTIABLE],
    ids=lambda value: value if isinstance(value, str) else 'grad' if value else 'no_grad',
)
def test_opcheck(name, grad, i):
    op = getattr(torch.ops.mmsnn, name).default
    results = torch.library.opcheck(op, ARGUMENTS[name](Sample(i, grad)), test_utils=TESTS)
    assert results == dict.fromkeys(TESTS, 'SUCCESS')


@pytest.mark.parametrize('name', ARGUMENTS)
def test_fakes_have_the_strides(name):
    """Which opcheck does not compare."""
    for i in SAMPLES:
        arguments = ARGUMENTS[name](Sample(i))
        real = getattr(torch.ops.mmsnn, name)(*arguments)
        with FakeTensorMode() as mode:
            fake = getattr(torch.ops.mmsnn, name)(
                *(mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in arguments)
            )
        for a, b in zip(*(out if isinstance(out, tuple) else [out] for out in (real, fake)), strict=True):
            assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype), i


@pytest.mark.parametrize('name', sorted(set(ARGUMENTS) - {*DIFFERENTIABLE, *WHOLE}))
def test_no_silent_zero(name):
    """What has no derivative says so."""
    out = getattr(torch.ops.mmsnn, name)(*ARGUMENTS[name](Sample(1, grad=True)))
    # event_layer's spikes are bytes, what they are made of is not
    with pytest.raises((RuntimeError, NotImplementedError), match='derivative'):
        out[-1 if name in EVENT_OPS else 0].sum().backward()
