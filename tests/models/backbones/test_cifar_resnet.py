"""CIFAR's ResNets of three stages, as ANN and spiking."""

import pickle
import tarfile

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

from mmsnn.checkpoints.conversion import convert_state
from mmsnn.checkpoints.reading import load_state
from mmsnn.distill import transfer_weights
from mmsnn.layers import time_folded
from mmsnn.models import CIFARResNet, MSResNet, SEWResNet, SpikingResNet
from mmsnn.models.backbones.cifar_resnet import ShortcutA

SPIKING = (SpikingResNet, SEWResNet, MSResNet)


def classifier(backbone: dict):
    return MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=backbone,
            neck=dict(type='mmpretrain.GlobalAveragePooling'),
            head=dict(type='mmpretrain.LinearClsHead', num_classes=10, in_channels=64),
        )
    )


def test_shortcut_by_hand():
    x = torch.arange(2 * 4 * 4, dtype=torch.float32).view(1, 2, 4, 4) + 1
    out = ShortcutA(2, 5, stride=2)(x)
    assert out.shape == (1, 5, 2, 2)
    assert out[0, 1].tolist() == [[1, 3], [9, 11]] and out[0, 2].tolist() == [[17, 19], [25, 27]]
    assert not out[0, [0, 3, 4]].any()


@pytest.mark.parametrize('depth, millions', [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_sizes_are_the_papers(depth, millions):
    """The parameters of the paper's table 6, its linear layer of 650 included."""
    count = sum(p.numel() for p in CIFARResNet(depth).parameters()) + 650
    assert round(count / 1e6, 1 if depth == 110 else 2) == millions
    assert all(sum(p.numel() for p in kind(depth).parameters()) + 650 == count for kind in SPIKING)


@pytest.mark.parametrize('kind', SPIKING)
def test_level_1_is_a_copy(kind):
    ann, snn = CIFARResNet(20), kind(20, T=2)
    report = transfer_weights(ann.state_dict(), snn)
    assert not report.missing and not report.unused
    assert all(torch.equal(value, snn.state_dict()[key]) for key, value in ann.state_dict().items())


@pytest.mark.parametrize('kind', SPIKING)
def test_maps(kind, lively):
    model = lively(kind(20, T=3, readout='none')).eval()
    assert model.out_channels == (16, 32, 64)
    with torch.no_grad():
        maps = model(torch.randn(2, 3, 32, 32))
    assert [tuple(m.shape) for m in maps] == [(6, 16, 32, 32), (6, 32, 16, 16), (6, 64, 8, 8)]
    # spikes, or sums of them
    assert all(torch.equal(m, m.round()) and m.any() for m in maps)


def test_sew_shortcut_has_no_neuron(lively):
    """Option A hands spikes on as they are; where the new channels lie, the block's output is its branch alone."""
    model = lively(SEWResNet(20, T=2)).eval()
    assert not [name for name, _ in model.named_modules() if 'downsample_neuron' in name]
    block = model.layer2[0]
    x = (torch.rand(4, 16, 8, 8) > 0.5).float()
    # a block alone, without its backbone's encoder
    with torch.no_grad(), time_folded(4):
        branch = block.last_neuron(block.last_norm(block.residual(x)))
        out = block(x)
    assert torch.equal(out[:, :8], branch[:, :8]) and torch.equal(out[:, 24:], branch[:, 24:])
    assert torch.equal(out[:, 8:24], branch[:, 8:24] + x[..., ::2, ::2])


@pytest.mark.parametrize('kind', (CIFARResNet, *SPIKING))
def test_option_b_and_copies(kind):
    model = kind(20, shortcut='B', base_channels=8)
    assert model.layer2[0].downsample[0].weight.shape == (16, 8, 1, 1)
    assert list(pickle.loads(pickle.dumps(model)).state_dict()) == list(model.state_dict())


def test_packed_spikes_give_the_same_gradients(lively):
    models = [SEWResNet(20, T=2, packed_spikes=packed) for packed in (False, True)]
    models[1].load_state_dict(lively(models[0]).state_dict())
    x = torch.randn(2, 3, 32, 32)
    for model in models:
        model.train()(x)[-1].sum().backward()
    for one, other in zip(models[0].parameters(), models[1].parameters()):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(num_stages=4, strides=(1, 2, 2, 2)), 'backbone.num_stages=4: a ResNet-20 has 3 stages'),
        (dict(shortcut='C'), 'backbone.shortcut'),
        (dict(avg_down=True), 'backbone.shortcut'),
    ],
)
def test_what_does_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        SpikingResNet(20, **settings)


def test_teachers_of_others(data_root):
    """A published ResNet-20 converts, and recognises lossless test images as often as its authors say."""
    files = sorted((data_root / 'cifar_resnets').glob('resnet20*.th'))
    archive = data_root / 'cifar10.tar.gz'
    if not files or not archive.is_file():
        pytest.skip(f'no trained ResNet-20 and no archive of CIFAR-10 in {data_root}')
    model = classifier(dict(type='mmsnn.CIFARResNet', depth=20))
    model.load_state_dict(convert_state(load_state(files[0]))[0])
    classes = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')
    images, labels = [], []
    with tarfile.open(archive, 'r|*') as tar:
        for member in tar:
            parts = member.name.split('/')
            if member.isfile() and parts[1] == 'test' and parts[3] < '0050':
                data = np.frombuffer(tar.extractfile(member).read(), np.uint8)
                images.append(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].copy())
                labels.append(classes.index(parts[2]))
            if len(images) == 500:
                break
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]))
    with torch.no_grad():
        features = model.eval().extract_feat((x - mean) / std)
        right = model.head(features).argmax(1) == torch.tensor(labels)
    # 91.78 % of all 10,000 are stated
    assert right.float().mean() > 0.88
