"""Estimate the GPUs, GPU hours and memory of a training by a stated rule; writes docs/recipes.md.

Only shapes are computed, so this works for any config on any machine. Example::

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
from mmsnn.refusals import run_main
from mmsnn.shipped import home

CONFIGS = (home() / 'configs').resolve()
# number of training images, by a part of the config's name
IMAGES = dict(tiny_imagenet=100_000, imagenet=1_281_167, cifar100=50_000, cifar10=50_000, coco=117_266, ade20k=20_210)
# speed of an A100: a third of its 312 TFLOP/s in bfloat16, and three quarters of its 2 TB/s
FLOPS, BYTES = 100e12, 1.5e12
DEFAULT = ('sakd/*_imagenet.py', 'sakd/*_coco.py', 'sakd/*_ade20k.py', 'sakd/*_cifar10.py', 'bkd/spikingformer*.py')


@dataclass
class Recipe:
    """A training.

    Attributes:
        name: name of its config.
        images: number of images in an epoch.
        epochs: number of epochs; for a training by iterations, the number that they amount to.
        batch, per_gpu: number of images in a step, and on one GPU.
        macs, teacher: multiply-accumulates per image, of the student at all its time steps and of its teacher.
        kept: bytes of float32 activations per image that are kept for the backward pass; None if unknown.
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
        """GPU hours in mixed precision: the longer of computing and moving the kept activations."""
        flops = 2 * (3 * self.macs + self.teacher)
        # activations and their gradients are each moved three times, with 2 bytes per element instead of 4
        moved = 6 * (self.kept or 0) / 2
        return self.images * self.epochs * max(flops / FLOPS, moved / BYTES) / 3600

    def row(self) -> list[str]:
        """Cells of the table."""
        gpus = max(1, round(self.batch / self.per_gpu))
        kept = f'{self.per_gpu * self.kept / 2**31:.1f} GiB' if self.kept else 'not counted'
        macs = f'{self.macs / 1e9:.3g}' + (f' + {self.teacher / 1e9:.3g}' if self.teacher else '')
        cost = f'{self.hours:.0f}' if self.hours >= 10 else f'{self.hours:.1g}'
        return [self.name, f'{self.images:,}', f'{self.epochs:g}', f'{gpus} x {self.per_gpu}', macs, kept, cost]


TITLES = ('config', 'images', 'epochs', 'GPUs x batch', 'GMACs per image', 'activations per GPU', 'GPU hours')


def activations(model: nn.Module, size: tuple[int, int]) -> int | None:
    """Bytes that the forward pass of one image keeps for backward; None if the model cannot run on images alone."""
    seen, weights = {}, {p.untyped_storage()._cdata for p in model.parameters()}

    def pack(x):
        storage = x.untyped_storage()
        if storage._cdata not in weights:
            seen[storage._cdata] = storage
        return x

    model.train()
    # norms of maps of one pixel need two images
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            inputs = torch.zeros(2, image_channels(model), *size, device=next(model.parameters()).device)
            outputs = model(inputs)
        del outputs
    except (RuntimeError, TypeError, AttributeError, ValueError):
        return None
    return sum(storage.nbytes() for storage in seen.values()) // 2


def recipe(path: Path) -> Recipe:
    """The estimate for the config at ``path``; ValueError if the size of its data set is unknown."""
    cfg = Config.fromfile(path)
    known = [count for name, count in IMAGES.items() if name in path.stem]
    if not known:
        raise ValueError(f'{path}: the number of training images is known only for {", ".join(IMAGES)}')
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


PAGE = """# Cost of trainings

These are estimates; none of these trainings was run with this code. `python tools/analysis_tools/recipes.py --table
docs/recipes.md` makes this page, and takes any config.

**The rule.** A student costs three forward passes per image, its teacher one. GPU hours are those of an NVIDIA A100
in mixed precision: the longer of computing at a third of its peak (100 TFLOP/s) and moving the kept activations six
times at three quarters of its bandwidth (1.5 TB/s). Data loading, validation and communication are not included.
Activations are those that a step keeps for its backward pass, in 16 bits, without weights, optimizer and loss;
`packed_spikes=True` and activation checkpointing reduce them. "GPUs x batch" is the batch that the config's learning
rate belongs to. Images of a detector have the scale to which its config resizes them.

For published accuracies see [RESULTS.md](../configs/RESULTS.md).

"""


def main(argv=None) -> list[Recipe]:
    """Run the command line ``argv`` (default: ``sys.argv``); returns the recipes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='*', type=Path, help=f'default: {", ".join(DEFAULT)}')
    parser.add_argument('--table', type=Path, metavar='FILE.md', help='also write the table to FILE.md')
    args = parser.parse_args(argv)
    for library in ('mmdet', 'mmseg', 'mmpretrain'):
        importlib.import_module(f'{library}.models')
    paths = [path.resolve() for path in args.configs] or [p for each in DEFAULT for p in sorted(CONFIGS.glob(each))]
    estimates = [recipe(path) for path in track(paths, 'counting', transient=True)]
    table = Table(*TITLES)
    for each in estimates:
        table.add_row(*each.row())
    Console(width=None if Console().is_terminal else 140).print(table)
    if args.table:
        lines = [TITLES, ['---'] * len(TITLES), *(each.row() for each in estimates)]
        args.table.write_text(PAGE + '\n'.join(f'| {" | ".join(line)} |' for line in lines) + '\n')
    return estimates


if __name__ == '__main__':
    run_main(main)
