"""Whether norm and neuron run as one op on a GPU, on tensors that only say that they are on one."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmsnn.neurons.base import _pays


@pytest.mark.parametrize(
    'device, training, form, pays',
    [
        ('cuda', True, torch.contiguous_format, True),
        ('cuda', True, torch.channels_last, False),
        ('cuda', False, torch.contiguous_format, False),
        ('cpu', True, torch.channels_last, True),
        ('cpu', False, torch.contiguous_format, True),
    ],
)
def test_one_op_where_it_is_faster(device, training, form, pays):
    with FakeTensorMode():
        norm = nn.BatchNorm2d(64, device=device).train(training)
        x = torch.empty(8, 64, 56, 56, device=device).contiguous(memory_format=form)
        assert _pays(norm, x) is pays
        # small maps never
        assert not _pays(norm, x[:1, :, :2, :2].contiguous())
