"""Time how much distillation and counting spikes add to a training step.

Each method is compared with an undistilled step and, if it has a teacher, one forward pass of the teacher.
"""

import argparse
import copy
from contextlib import nullcontext
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from rich.progress import track

from mmsnn.analysis import pairing
from mmsnn.building import is_distiller
from mmsnn.distill import Distiller
from mmsnn.engine.cli import complete_loaders
from mmsnn.engine.options import add_cfg_options, apply_options
from mmsnn.neurons import SpikeCounter
from mmsnn.refusals import run_main

ROOT = Path(__file__).resolve().parents[2]
METHODS = 'sakd', 'bkd', 'lasnn', 'affine', 'step_kd', 'tet', 'tssd'
PLAIN, TEACHER = 'undistilled step', 'teacher forward'
# the same step as in the iterations in which FiringRateHook counts spikes
COUNTED = 'undistilled step, spikes counted'


def build(cfg: Config, device: str) -> torch.nn.Module:
    """The model of a config with random weights, which take as much time as trained ones."""
    model = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    if is_distiller(model):
        model.teacher_checkpoint, model.transfer = None, False
    model = MODELS.build(model)
    if isinstance(model, Distiller):
        for teacher in model.teachers.values():
            teacher.loaded = True  # prevents loading its checkpoint
    return model.to(device).train()


def first_batch(cfg: Config, args: argparse.Namespace, model: torch.nn.Module) -> dict:
    """The first training batch of the config, or with ``--noise`` a batch of noise for a classifier."""
    if not args.noise:
        return next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
    from mmpretrain.structures import DataSample

    classes = model.head.num_classes
    images = [torch.randint(256, (3, args.noise, args.noise), dtype=torch.uint8) for _ in range(args.batch)]
    return dict(inputs=images, data_samples=[DataSample().set_gt_label(torch.randint(classes, (1,))) for _ in images])


def main(argv=None):
    """Run the command line ``argv`` (default: ``sys.argv``)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('student', help='name of a config in configs/spiking, e.g. retinanet_sew18_bccd')
    parser.add_argument('--methods', nargs='+', default=list(METHODS), help='folders of configs; default: all that fit')
    add_cfg_options(parser)
    parser.add_argument(
        '--noise', type=int, metavar='PIXELS', help='use noise of this size instead of the training set (classifiers)'
    )
    parser.add_argument('--batch', type=int, default=8, help='number of images of noise')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--out', type=Path, help='write the results as JSON')
    args = parser.parse_args(argv)
    MMLogger.get_instance('mmsnn', log_level='WARNING')
    torch.manual_seed(0)
    files = {name: ROOT / f'configs/{name}/{args.student}.py' for name in args.methods}
    configs = {name: Config.fromfile(file) for name, file in files.items() if file.exists()}
    for cfg in configs.values():
        apply_options(cfg, args.cfg_options or {})
    configs = {PLAIN: Config.fromfile(ROOT / f'configs/spiking/{args.student}.py'), **configs}
    init_default_scope(configs[PLAIN].default_scope)
    complete_loaders(configs[PLAIN])
    models = {name: build(cfg, args.device) for name, cfg in configs.items()}
    batch = first_batch(configs[PLAIN], args, models[PLAIN])

    def step(name, within=nullcontext):
        optimizer = configs[name].optim_wrapper.optimizer
        wrapper = build_optim_wrapper(models[name], dict(type='OptimWrapper', optimizer=optimizer))

        def work():
            with within():
                models[name].train_step(copy.deepcopy(batch), wrapper)

        return pairing.stopwatch(work, args.device)

    sides = {name: step(name) for name in models}
    counter = SpikeCounter(models[PLAIN])
    sides[COUNTED] = step(PLAIN, lambda: counter)
    taught = {name: bool(model.teachers) for name, model in models.items() if isinstance(model, Distiller)}
    teachers = [models[name].teacher.model for name, has_teacher in taught.items() if has_teacher]
    if teachers:
        pre = models[PLAIN].data_preprocessor
        images = pre(copy.deepcopy(batch), True)['inputs']
        forward = torch.no_grad()(lambda: teachers[0](images, mode='tensor'))
        sides[TEACHER] = pairing.stopwatch(forward, args.device)
    for _ in track(range(1), description='steps'):
        seconds = pairing.interleave(sides, args.rounds)
    table = pairing.compare(seconds, PLAIN)
    for name, has_teacher in taught.items():
        sums = [a + b * has_teacher for a, b in zip(seconds[PLAIN], seconds.get(TEACHER, seconds[PLAIN]))]
        table[name]['overhead'] = pairing.compare({'sum': sums, 'ours': seconds[name]}, 'sum')['ours']['ratio']
    print(f'{args.student}, a training step: time relative to the undistilled step, then absolute')
    print('\n'.join(pairing.lines(table)))
    print('\ntime relative to the undistilled step plus, if there is a teacher, its forward pass')
    for name in taught:
        ratio = table[name]['overhead']
        print(f'{name:<34}{ratio["median"]:8.2f} x  ({ratio["low"]:.2f} to {ratio["high"]:.2f})')
    if args.out:
        case = dict(student=args.student, images=len(batch['inputs']), noise=args.noise, taught=taught, table=table)
        pairing.save(args.out, pairing.circumstances(args.device), [case])


if __name__ == '__main__':
    run_main(main)
