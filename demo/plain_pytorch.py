"""A spiking network on CIFAR-10 in plain PyTorch: mmsnn's neurons in an ordinary training loop, without OpenMMLab.

Example::

    python demo/plain_pytorch.py --data FOLDER --images 2000 --epochs 10

``FOLDER`` contains ``cifar10.tar.gz`` (members ``.../train/CLASS/NAME`` and ``.../test/CLASS/NAME``) or the folders
``train/CLASS`` and ``test/CLASS``. Nothing is downloaded.
"""

import argparse
import io
import os
import tarfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath, PurePosixPath

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import to_tensor

import mmsnn
from mmsnn.layers import DirectEncoder, Readout
from mmsnn.neurons import LIF
from mmsnn.refusals import run_main

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)


def walk(data: Path) -> Iterator[tuple[PurePath, Callable[[], bytes]]]:
    """Path of each image file below ``data``, and a function that reads it."""
    archive, folders = data / 'cifar10.tar.gz', [data / split for split in ('train', 'test')]
    if all(folder.is_dir() for folder in folders):
        for folder in folders:
            for path in sorted(folder.glob('*/*')):
                yield path, path.read_bytes
    elif archive.is_file():
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile():
                    yield PurePosixPath(member.name), tar.extractfile(member).read
    else:
        raise FileNotFoundError(
            f'{data} contains neither cifar10.tar.gz nor the folders train and test: give their folder by --data, or '
            'with the environment variable MMSNN_DATA_ROOT'
        )


def read_images(data: Path, images: int) -> tuple[list[str], dict[str, tuple[Tensor, Tensor]]]:
    """The first images of every class.

    Args:
        data: folder of the archive or of the images.
        images: number of images in each split, over all ten classes.

    Returns:
        The classes, and by split (``train``, ``test``) normalised images ``[N, 3, 32, 32]`` and labels ``[N]``.

    Raises:
        FileNotFoundError: ``data`` contains neither the archive nor the folders.
    """
    taken, examples = Counter(), []
    for path, read in walk(data):
        split, kind = path.parts[-3:-1]
        taken[split, kind] += 1
        if taken[split, kind] <= max(1, images // 10):
            examples.append((split, kind, to_tensor(Image.open(io.BytesIO(read())).convert('RGB'))))
    classes = sorted({kind for _, kind, _ in examples})
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    splits = {}
    for split in ('train', 'test'):
        pairs = [((image - mean) / std, classes.index(kind)) for each, kind, image in examples if each == split]
        splits[split] = torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])
    return classes, splits


def make_network(T: int, classes: int) -> nn.Sequential:
    """A network of three convolutions with norms and neurons: images ``[B, 3, 32, 32]`` to logits ``[B, classes]``."""
    layers = OrderedDict(encoder=DirectEncoder(T))  # [B, ...] to [T*B, ...]: the image at every time step
    width = 3
    for i, out in enumerate([32, 64, 128], start=1):
        layers[f'conv{i}'] = nn.Conv2d(width, out, 3, padding=1, bias=False)
        # without a norm before them the neurons may never fire
        layers[f'norm{i}'] = nn.BatchNorm2d(out)
        layers[f'neuron{i}'] = LIF(T, tau=2.0, v_threshold=0.5, surrogate='atan')
        layers[f'pool{i}'] = nn.MaxPool2d(2)
        width = out
    layers.update(mean=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(width, classes))
    layers['readout'] = Readout(T)  # [T*B, ...] to [B, ...]: the mean over time
    return nn.Sequential(layers)


def train_epoch(model: nn.Module, optimizer, images: Tensor, labels: Tensor, batch: int) -> float:
    """Train on all images in random order, with random flips; returns the mean loss."""
    model.train()
    total = 0.0
    for chosen in torch.randperm(len(images)).split(batch):
        x = images[chosen]
        mirrored = torch.rand(len(x)) < 0.5
        x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x)
        loss = F.cross_entropy(model(x), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(chosen)
    return total / len(images)


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor, batch: int = 200) -> float:
    """Accuracy between 0 and 1."""
    model.eval()
    right = sum((model(x).argmax(1) == y).sum().item() for x, y in zip(images.split(batch), labels.split(batch)))
    return right / len(images)


@torch.no_grad()
def firing_rates(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Spikes per neuron and time step of each layer."""
    model.eval()
    with mmsnn.record(model, 'neuron*', what='rate') as rates:
        model(images)
    return {name: rate.mean().item() for name, rate in rates.items()}


def main(argv: list[str] | None = None) -> float:
    """Train, and print loss, accuracy and firing rates; returns the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=Path(os.environ.get('MMSNN_DATA_ROOT', 'data')), help='folder')
    parser.add_argument('--images', type=int, default=2000, help='training images, and as many test images')
    parser.add_argument('--epochs', type=int, default=5)
    parser.add_argument('--batch', type=int, default=50)
    parser.add_argument('--T', type=int, default=4, help='time steps')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)

    torch.manual_seed(args.seed)
    classes, splits = read_images(args.data, args.images)
    model = make_network(args.T, len(classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for epoch in range(1, args.epochs + 1):
        loss = train_epoch(model, optimizer, *splits['train'], args.batch)
        rates = ', '.join(f'{name} {rate:.3f}' for name, rate in firing_rates(model, splits['test'][0][:100]).items())
        accuracy = evaluate(model, *splits['test'])
        print(f'epoch {epoch}: loss {loss:.3f}, accuracy {accuracy:.1%}, firing rates {rates}')
    # the weights do not depend on the number of steps
    for T in sorted({1, 2, args.T}):
        mmsnn.set_time_steps(model, T)
        print(f'T={T}: accuracy {evaluate(model, *splits["test"]):.1%}')
    mmsnn.set_time_steps(model, args.T)
    return accuracy


if __name__ == '__main__':
    run_main(main)
