"""Every method's losses on a GPU: no tensor stays behind on the CPU, and a larger batch needs no more kernels.

The tensors only say that they are on a GPU.
"""

from pathlib import Path

import mmpretrain.models  # noqa: F401
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mmsnn.distill import teacher as teachers

ROOT = Path(__file__).parents[2]
METHODS = 'affine', 'bkd', 'lasnn', 'sakd', 'step_kd', 'tet', 'tssd'


def move(model: nn.Module) -> None:
    """Put a model onto a GPU that does not exist, within a FakeTensorMode."""
    for module in model.modules():
        for kind in (module._parameters, module._buffers):
            for name, old in kind.items():
                if old is not None:
                    new = torch.empty(old.shape, dtype=old.dtype, device='cuda')
                    kind[name] = nn.Parameter(new, old.requires_grad) if kind is module._parameters else new


class Kernels(TorchDispatchMode):
    """Counts the operations that reach the GPU, as far as Python sees them."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize('method', METHODS)
def test_losses_of(method, monkeypatch):
    # numbers cannot be read from such tensors
    monkeypatch.setattr(teachers, 'constants', lambda model: id(model))
    config = Config.fromfile(ROOT / f'configs/{method}/spiking_r20_cifar10.py')
    init_default_scope('mmpretrain')
    model = MODELS.build(config.model).train()
    for teacher in model.teachers.values():
        teacher.load()
    with FakeTensorMode():
        for part in [model, *(teacher.model for teacher in model.teachers.values())]:
            move(part)
        counts = []
        for images in (64, 64, 65):  # the first may prepare something
            samples = []
            for _ in range(images):
                samples.append(DataSample())
                samples[-1].gt_label = torch.zeros(1, dtype=torch.long, device='cuda')
            with Kernels() as kernels:
                losses = model(torch.empty(images, 3, 32, 32, device='cuda'), samples, mode='loss')
            assert len(losses) > 1 and all(loss.device.type == 'cuda' for loss in losses.values())
            counts.append(kernels.count)
        assert counts[1] == counts[2] > 100


@pytest.mark.parametrize('which', [0, 1])
def test_one_of_them_normalises(which, monkeypatch):
    """The other one's mean is a number, which belongs to no device."""

    class Model(nn.Module):
        def __init__(self, mean=None, std=None):
            super().__init__()
            preprocessor = dict(type='mmpretrain.ClsDataPreprocessor', mean=mean, std=std)
            self.data_preprocessor = MODELS.build(preprocessor)

    monkeypatch.setattr(teachers, 'constants', lambda model: id(model))
    models = [Model([120.0] * 3, [60.0] * 3), Model()]
    with FakeTensorMode():
        for model in models:
            move(model)
        images = torch.empty(2, 3, 8, 8, device='cuda')
        out = teachers.renormalise(images, models[which], models[1 - which])
        assert out.device.type == 'cuda' and out.shape == images.shape


def test_statistics_are_read_once():
    """To read a tensor of a GPU waits for all that it has to do."""
    model = nn.Module()
    model.data_preprocessor = MODELS.build(dict(type='mmpretrain.ClsDataPreprocessor', mean=[1, 2, 3], std=[4, 5, 6]))
    first = teachers.constants(model)
    assert first == ([1, 2, 3], [4, 5, 6]) and teachers.constants(model) is first
    assert teachers.constants(nn.Module()) == ([0], [1])
