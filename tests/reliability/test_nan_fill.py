"""R05: fresh memory is full of NaN while ops and modules are tested, in C++ too, and none of it comes out.

The fixture in ``conftest.py`` fills it for every test of ops and modules; here is what shows that this reaches C++, and
each op's outputs where blocks and vectors end unevenly.
"""

import pytest
import torch
from ops_checks import ARGUMENTS, LAYOUTS, Sample

SIZES = [(1, 1, 1), (3, 1, 43), (5, 5, 41), (257, 1, 1)]


def test_fresh_memory_is_nan():
    x = torch.zeros(3, 5, 4).transpose(0, 1)
    for fresh in (torch.empty(7), torch.empty_like(x), torch.empty_strided((3, 2), (2, 1)), x.new_empty(9)):
        assert fresh.isnan().all()
    # as the kernels ask for it: by the dispatcher, from C++
    assert torch.ops.aten.empty_like(x).isnan().all()
    assert torch.ops.aten.empty.memory_format([5], dtype=torch.float64).isnan().all()


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('i', [0, 1, 2, 4])
def test_nothing_of_it_comes_out(i, layout, size):
    for name, arguments in ARGUMENTS.items():
        if name != 'unpack':
            got = getattr(torch.ops.mmsnn, name)(*arguments(Sample(i, size=size, layout=layout)))
            for out in got if isinstance(got, tuple) else [got]:
                assert not out.isnan().any(), name
