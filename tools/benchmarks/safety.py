"""Time how much exact resumption and the checks of a training add to a step, with and without them in turn.

With them, each sample and each iteration is seeded, unreadable images are named, losses, gradients and data are checked
for NaN, and signals are handled. Both sides load images as a part of the step, and run in the same process. CPU time is
measured.
"""

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmsnn.analysis import pairing
from mmsnn.engine.cli import build_runner, complete_loaders
from mmsnn.engine.images import NamedImages
from mmsnn.engine.safety import make_safe
from mmsnn.engine.seeding import Place
from mmsnn.refusals import run_main

ROOT = Path(__file__).resolve().parents[2]
WITH, WITHOUT = 'with all parts', 'without'
PARTS = ('FiniteHook', 'InterruptHook')


def write_images(folder: Path, count: int, size: int, classes: int) -> None:
    """Write images of noise into a folder per class."""
    for i in range(count):
        subfolder = folder / f'{i % classes:03}'
        subfolder.mkdir(exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (size, size, 3), dtype=np.uint8)
        cv2.imwrite(str(subfolder / f'{i}.png'), noise)


def read(args: argparse.Namespace, folder: Path) -> Config:
    """The config of a classifier, with images of noise as its training set."""
    cfg = Config.fromfile(ROOT / f'configs/spiking/{args.student}.py')
    init_default_scope(cfg.default_scope)
    classes = cfg.model.head.num_classes
    write_images(folder, max(args.batch, classes), args.pixels, classes)
    dataset = dict(
        type='CustomDataset',
        data_root=str(folder),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    )
    cfg.train_dataloader = dict(
        batch_size=args.batch, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dataset
    )
    cfg.update(work_dir=str(folder / 'run'), log_level='ERROR', custom_hooks=[], val_cfg=None)
    cfg.update(val_dataloader=None, val_evaluator=None, test_cfg=None, test_dataloader=None, test_evaluator=None)
    cfg.update(train_cfg=dict(by_epoch=True, max_epochs=1), param_scheduler=None)
    complete_loaders(cfg)
    return make_safe(cfg)


def start(cfg: Config) -> Runner:
    """A runner that is about to make its first training step."""
    runner = build_runner(cfg)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner._init_model_weights()
    for moment in ('before_run', 'before_train', 'before_train_epoch'):
        runner.call_hook(moment)
    runner.model.train()
    return runner


class Step:
    """A training step, with or without the checks and seeds.

    Args:
        runner: a runner from `start`.
        safe: whether the step has them.
    """

    def __init__(self, runner: Runner, safe: bool):
        self.runner, self.safe, self.loop, self.number = runner, safe, runner.train_loop, 0
        self.hooks = [h for h in runner.hooks if safe or type(h).__name__ not in PARTS]
        self.finite = next(h for h in runner.hooks if type(h).__name__ == 'FiniteHook')
        self.data = self.loop.dataloader.dataset
        self.inner = self.data._inner
        transforms = self.inner.pipeline.transforms
        self.transforms = transforms if safe else [getattr(t, 'load', t) for t in transforms]
        assert any(isinstance(t, NamedImages) for t in self.transforms) == safe
        self.collate = self.loop.dataloader.collate_fn
        self.count = self.loop.dataloader.batch_sampler.batch_size

    def __call__(self) -> float:
        """Make a step; returns its CPU seconds, which other programs on the machine hardly change."""
        runner, loop = self.runner, self.loop
        runner._hooks, self.inner.pipeline.transforms = self.hooks, self.transforms
        if not self.safe:
            # this removes the checks of losses and optimizer
            self.finite.after_train(runner)
        begin = time.process_time()
        if self.safe:
            batch = self.collate([self.data[Place(i, (0, self.number, i))] for i in range(self.count)])
            loop._seed_iteration()
        else:
            batch = self.collate([self.inner[i] for i in range(self.count)])
        EpochBasedTrainLoop.run_iter(loop, self.number, batch)
        seconds = time.process_time() - begin
        self.number += 1
        if not self.safe:
            self.finite.before_train(runner)
        return seconds


def main(argv=None) -> None:
    """Run the command line ``argv`` (default: ``sys.argv``)."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument(
        'student', nargs='?', default='spiking_r18_cifar10_small', help='a classifier of configs/spiking'
    )
    parser.add_argument('--pixels', type=int, default=32)
    parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--rounds', type=int, default=30)
    parser.add_argument('--out', type=Path, help='write the results as JSON')
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        runner = start(read(args, Path(folder)))
        sides = {WITHOUT: Step(runner, False), WITH: Step(runner, True)}
        seconds = pairing.interleave(sides, args.rounds)
    table = pairing.compare(seconds, WITHOUT)
    least = {name: min(values) for name, values in seconds.items()}
    print(
        f'{args.student}, {args.batch} images of {args.pixels} pixels: time relative to the plain step, then absolute'
    )
    print('\n'.join(pairing.lines(table)))
    print(f'the fastest steps: {least[WITH] / least[WITHOUT]:.4f} x')
    if args.out:
        case = dict(student=args.student, images=args.batch, pixels=args.pixels, table=table, fastest=least)
        pairing.save(args.out, pairing.circumstances('cpu'), [case])


if __name__ == '__main__':
    run_main(main)
