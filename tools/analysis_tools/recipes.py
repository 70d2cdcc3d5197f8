"""Estimate what a training takes, by a stated rule: GPUs, hours and memory; writes docs/recipes.md.

Nothing is computed but shapes, so that any config can be asked, whatever the machine. Example::

    python tools/analysis_tools/recipes.py configs/sakd/sew34_imagenet.py configs/sakd/retinanet_sew34_coco.py
"""

import argparse
import importlib
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from mmsnn.analysis import count_macs
from mmsnn.building import build_model, image_size, read, use_student
from mmsnn.layers import image_channels
from mmsnn.shipped import home

CONFIGS = (home() / 'configs').resolve()
# images in the training sets, by a part of the name of their configs
IMAGES = dict(tiny_imagenet=100_000, imagenet=1_281_167, cifar100=50_000, cifar10=50_000, coco=117_266, ade20k=20_210)
# an A100: a third of its 312 TFLOP/s in bfloat16, and three quarters of its 2 TB/s
FLOPS, BYTES = 100e12, 1.5e12
DEFAULT = ('sakd/*_imagenet.py', 'sakd/*_coco.py', 'sakd/*_ade20k.py', 'sakd/*_cifar10.py', 'bkd/spikingformer*.py')


@dataclass
class Recipe:
    """A training.

    Attributes:
        name: of its config.
        images: in an epoch.
        epochs: how many; of a training by iterations, what these amount to.
        batch, per_gpu: images in a step, and of them on one GPU.
        macs, teacher: multiply-accumulates for one image, of the student at all its steps and of its teacher.
        kept: bytes of activations for one image that wait for the backward pass, in float32; None where unknown.
    """

    name: str
    images: int
    epochs: float
    batch: int
    per_gpu: int
    macs: int
    teacher: int
    kept: int | None

    @property
    def hours(self) -> float:
        """GPU hours: the longer of computing and moving what is kept, in mixed precision."""
        flops = 2 * (3 * self.macs + self.teacher)
        # activations are written, read forwards and backwards, and so are their gradients; 2 bytes each instead of 4
        moved = 6 * (self.kept or 0) / 2
        return self.images * self.epochs * max(flops / FLOPS, moved / BYTES) / 3600

    def row(self) -> list[str]:
        """Cells of the table."""
        gpus = max(1, round(self.batch / self.per_gpu))
        kept = f'{self.per_gpu * self.kept / 2**31:.1f} GiB' if self.kept else 'not counted'
        macs = f'{self.macs / 1e9:.3g}' + (f' + {self.teacher / 1e9:.3g}' if self.teacher else '')
        cost = f'{self.hours:.0f}' if self.hours >= 10 else f'{self.hours:.1g}'
        return [self.name, f'{self.images:,}', f'{self.epochs:g}', f'{gpus} x {self.per_gpu}', macs, kept, cost]


TITLES = ('config', 'images', 'epochs', 'GPUs x batch', 'GMACs an image', 'activations a GPU', 'GPU hours')


def activations(model: nn.Module, size: tuple[int, int]) -> int | None:
    """Bytes that one image's forward pass keeps for its backward pass; None where the model wants more than images."""
    seen, weights = {}, {p.untyped_storage()._cdata for p in model.parameters()}

    def pack(x):
        storage = x.untyped_storage()
        if storage._cdata not in weights:
            seen[storage._cdata] = storage
        return x

    model.train()
    # of two images, because norms of maps of one pixel want them
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            inputs = torch.zeros(2, image_channels(model), *size, device=next(model.parameters()).device)
            outputs = model(inputs)
        del outputs
    except (RuntimeError, TypeError, AttributeError, ValueError):
        return None
    return sum(storage.nbytes() for storage in seen.values()) // 2


def recipe(path: Path) -> Recipe:
    """What the config at ``path`` takes; ValueError where its data has no known size."""
    cfg = Config.fromfile(path)
    known = [count for name, count in IMAGES.items() if name in path.stem]
    if not known:
        raise ValueError(f'{path}: the number of training images is known of {", ".join(IMAGES)} alone')
    per_gpu = cfg.train_dataloader.batch_size
    batch = (cfg.get('auto_scale_lr') or {}).get('base_batch_size', per_gpu)
    epochs = cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters * batch / known[0]
    taught = cfg.model.get('teacher')
    size = image_size(cfg)
    student = build_model(use_student(cfg)).to('meta')
    teacher = build_model(read(taught)).to('meta') if isinstance(taught, str) else None
    return Recipe(
        name=path.relative_to(CONFIGS).as_posix() if path.is_relative_to(CONFIGS) else path.name,
        images=known[0],
        epochs=round(epochs, 1),
        batch=batch,
        per_gpu=per_gpu,
        macs=count_macs(student, size).model.total,
        teacher=count_macs(teacher, size).model.total if teacher else 0,
        kept=activations(student, size),
    )


PAGE = """# What trainings take

Estimates; none of these was run with this code. Made by `python tools/analysis_tools/recipes.py --table
docs/recipes.md`, which takes any config.

**The rule.** A student costs three forward passes an image, its teacher one. GPU hours are those of an NVIDIA A100
in mixed precision: the longer of computing at a third of its peak (100 TFLOP/s) and moving the kept activations six
times at three quarters of its bandwidth (1.5 TB/s). Data loading, validation and communication come on top.
Activations are what a step keeps for its backward pass, in 16 bits, without weights, optimizer and the loss;
`packed_spikes=True` and activation checkpointing lower them. "GPUs x batch" is the batch that the learning rate in
the config belongs to. Images of a detector are counted at the scale to which its config resizes them.

Figures to expect: [RESULTS.md](../configs/RESULTS.md), where they are published.

"""


def main(argv=None) -> list[Recipe]:
    """Run the command line ``argv`` (default: ``sys.argv``); returns the recipes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='*', type=Path, help=f'default: {", ".join(DEFAULT)}')
    parser.add_argument('--table', type=Path, metavar='FILE.md', help='also write the table there')
    args = parser.parse_args(argv)
    for library in ('mmdet', 'mmseg', 'mmpretrain'):
        importlib.import_module(f'{library}.models')
    paths = [path.resolve() for path in args.configs] or [p for each in DEFAULT for p in sorted(CONFIGS.glob(each))]
    found = [recipe(path) for path in track(paths, 'counting', transient=True)]
    table = Table(*TITLES)
    for each in found:
        table.add_row(*each.row())
    Console(width=None if Console().is_terminal else 140).print(table)
    if args.table:
        lines = [TITLES, ['---'] * len(TITLES), *(each.row() for each in found)]
        args.table.write_text(PAGE + '\n'.join(f'| {" | ".join(line)} |' for line in lines) + '\n')
    return found


if __name__ == '__main__':
    main()
