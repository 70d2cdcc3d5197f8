"""Compare ANN-to-SNN conversion with distillation: accuracy against T, synaptic operations and energy.

SpikingJelly's ann2snn converts the ANN by rate coding (thresholds are the largest activation or its 99.9 % quantile)
and by local threshold balancing, calibrated on training images. Trained spiking students are tested with few time
steps. Synaptic operations and energy are counted in the same way on both sides. The result is written after every
batch: the same command continues an interrupted run, and a larger --num-images adds to an existing result.
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import Tensor, nn

import mmsnn
from mmsnn.analysis import count_energy
from mmsnn.analysis.energy import AC_PJ, MAC_PJ
from mmsnn.building import build_model, read, use_student
from mmsnn.checkpoints.fitting import load_weights
from mmsnn.engine.options import positive
from mmsnn.layers import evaluating, set_time_steps
from mmsnn.layers.fan_out import accumulations, dense_macs
from mmsnn.models.backbones.cifar_resnet import ShortcutA
from mmsnn.refusals import run_main
from mmsnn.shipped import commit

RECIPES = {
    'max': 'rate coding, largest activation',
    'quantile': 'rate coding, 99.9 % quantile',
    'balanced': 'local threshold balancing',
}
TIMES = [2**n for n in range(10)]


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of the ANN, an mmpretrain classifier whose activations are ReLUs')
    parser.add_argument('checkpoint', help='weights of the ANN')
    parser.add_argument('--recipes', nargs='+', choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument(
        '--max-T', type=positive, default=512, help='accuracies are given at powers of two up to this T'
    )
    parser.add_argument('--num-images', type=positive, metavar='N', help='use the first N test images; default: all')
    parser.add_argument(
        '--calibration',
        type=positive,
        default=5000,
        metavar='N',
        help='training images for calibration (default: 5000)',
    )
    parser.add_argument(
        '--count',
        type=positive,
        default=100,
        metavar='N',
        help='images whose synaptic operations are counted (default: 100)',
    )
    parser.add_argument('--batch-size', type=positive, default=100)
    parser.add_argument('--device', default='cpu', help='cpu or cuda (default: cpu)')
    parser.add_argument(
        '--students', nargs='+', default=[], metavar='NAME=CONFIG=CHECKPOINT', help='trained spiking classifiers'
    )
    parser.add_argument('--student-T', nargs='+', type=positive, default=[1, 2, 4], help='time steps of the students')
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs/conversion.json'), help='file of results, with a plot beside it'
    )
    args = parser.parse_args(argv)
    for student in args.students:
        if student.count('=') != 2:
            parser.error(f'--students: expected NAME=CONFIG=CHECKPOINT, got {student!r}')
    return args


def loader(cfg: Config, which: str, batch_size: int, first: int | None):
    """Batches of the test set (``test``) or of the training set (``train``) in order, both with the test pipeline."""
    dataset = dict(cfg.test_dataloader.dataset)
    if which == 'train':
        dataset = dict(cfg.train_dataloader.dataset, pipeline=dataset['pipeline'])
    if first:
        dataset['indices'] = first
    sampler = dict(type='DefaultSampler', shuffle=False)
    settings = dict(cfg.test_dataloader, dataset=dataset, sampler=sampler, batch_size=batch_size)
    settings.update(num_workers=0, persistent_workers=False)
    return Runner.build_dataloader(settings)


def prepare(model: nn.Module, batch: dict) -> tuple[Tensor, Tensor]:
    """Preprocessed images ``[B, C, H, W]`` in channels-last memory format, and their labels ``[B]``."""
    data = model.data_preprocessor(batch, False)
    labels = torch.stack([sample.gt_label.flatten()[0] for sample in data['data_samples']])
    return data['inputs'].contiguous(memory_format=torch.channels_last), labels


class Logits(nn.Module):
    """A classifier from images to logits that torch.fx can trace."""

    def __init__(self, model: nn.Module):
        super().__init__()
        if not isinstance(getattr(model.head, 'fc', None), nn.Linear):
            raise ValueError(f'model.head: conversion needs a linear classifier, got {type(model.head).__name__}')
        self.backbone, self.neck, self.fc = model.backbone, model.neck, model.head.fc

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        return self.fc((self.neck(features) if self.neck is not None else features)[-1])


def shortcuts_as_convolutions(model: nn.Module) -> None:
    """Replace option-A shortcuts by fixed 1x1 convolutions, in place, because ann2snn does not support padding."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ShortcutA):
                conv = nn.Conv2d(child.in_channels, child.out_channels, 1, child.stride, bias=False)
                index = torch.arange(child.in_channels)
                conv.weight.data.zero_()[index + (child.out_channels - child.in_channels) // 2, index] = 1
                setattr(parent, name, conv)


class Integrate(nn.Module):
    """An IF neuron of SpikingJelly that computes by mmsnn's kernel, as the students do: one time step per call."""

    def __init__(self, node: nn.Module):
        super().__init__()
        self.settings = mmsnn.NeuronSettings(tau=None, v_threshold=node.v_threshold, v_reset=node.v_reset)
        node.reset()
        self.initial, self.v = float(node.v), None

    def forward(self, x: Tensor) -> Tensor:
        if self.v is None:
            self.v = torch.full_like(x, self.initial)
        spikes, self.v = mmsnn.ops.lif(x, 1, self.settings, v_init=self.v, return_v=True)
        return spikes


def convert(cfg: Config, checkpoint: str, recipe: str, images: list[tuple[Tensor]]) -> nn.Module:
    """The converted network, which computes one time step per call.

    Raises:
        ImportError: SpikingJelly is missing.
    """
    try:
        from spikingjelly.activation_based import ann2snn, neuron
    except ImportError as error:
        raise ImportError('conversion needs SpikingJelly: pip install spikingjelly') from error
    recipes = {
        'max': lambda: ann2snn.RateCodingRecipe(images, mode='max'),
        'quantile': lambda: ann2snn.RateCodingRecipe(images, mode='99.9%'),
        'balanced': lambda: ann2snn.LocalThresholdBalancingRecipe(images),
    }
    model = build_model(cfg)
    load_weights(model, checkpoint)
    logits = Logits(model.eval())
    shortcuts_as_convolutions(logits)
    logits.to(images[0][0].device)
    model = ann2snn.Converter(recipes[recipe]()).convert(logits).eval().to(memory_format=torch.channels_last)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in (neuron.IFNode, neuron.HalfThresholdIFNode):
                setattr(parent, name, Integrate(child))
    return model


class Operations:
    """Synaptic operations of a converted network, summed over its time steps.

    As in `count_energy`, each output that a spike reaches costs an accumulation. The scale after a neuron is folded
    into the next convolution. The first convolution and the classifier have analog inputs; they count once per image,
    because the image is the same at every time step and the classifier is linear.
    """

    def __init__(self, model: nn.Module):
        self.acs = self.macs = 0.0
        layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        # the fixed convolutions of `shortcuts_as_convolutions`, which only copy values
        copies = {m for name, m in model.named_modules() if name.rpartition('.')[2] == 'downsample'}
        self.once = {layers[0], layers[-1]}
        self.seen = set()
        self.handles = [m.register_forward_hook(self._count) for m in layers if m not in copies]

    def _count(self, layer, args, output) -> None:
        if layer not in self.once:
            self.acs += float(accumulations(layer, args[0] != 0, output))
        elif layer not in self.seen:
            self.seen.add(layer)
            self.macs += dense_macs(layer, args[0], output)

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()


def clock(device: torch.device) -> float:
    """Seconds: the process's own on a CPU; on a GPU the wall clock's, after all its work."""
    if device.type == 'cpu':
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def simulate(model: nn.Module, images: Tensor, labels: Tensor, times: list[int], count: bool) -> dict:
    """Number of correct predictions and seconds after each of ``times``; with ``count`` also the operations."""
    for module in model.modules():
        if isinstance(module, Integrate):
            module.v = None
    operations = Operations(model) if count else None
    sums, total, start = dict(right={}, acs={}, macs={}, seconds={}), 0.0, clock(images.device)
    with torch.no_grad():
        for t in range(1, times[-1] + 1):
            total = total + model(images)
            if t in times:
                sums['right'][str(t)] = int((total.argmax(1) == labels).sum())
                sums['seconds'][str(t)] = clock(images.device) - start
                if operations:
                    sums['acs'][str(t)], sums['macs'][str(t)] = operations.acs, operations.macs
    if operations:
        operations.close()
    return sums


def add(state: dict, sums: dict, images: int, counted: bool) -> None:
    """Add the sums of one batch to the state in the result file."""
    state['images'] += images
    for key, values in sums.items():
        if key == 'seconds' and counted:
            continue  # counting operations takes additional time
        for t, value in values.items():
            state[key][t] = state[key].get(t, 0) + value
    if counted:
        state['counted'] += images
    else:
        state['timed'] += images


def curve(state: dict, device: str) -> dict[str, dict]:
    """Accuracy in per cent, and seconds of the device, operations and energy (µJ) per image, by number of steps."""
    points = {}
    for t, right in state['right'].items():
        points[t] = dict(accuracy=round(100 * right / state['images'], 2))
        if state['timed']:
            points[t][f'{device}_seconds'] = state['seconds'][t] / state['timed']
        if t in state['acs']:
            acs, macs = (state[key][t] / state['counted'] for key in ('acs', 'macs'))
            points[t].update(acs=acs, macs=macs, energy_uj=(acs * AC_PJ + macs * MAC_PJ) * 1e-6)
    return points


def judge(model: nn.Module, cfg: Config, args: argparse.Namespace, T: int | None) -> dict:
    """Accuracy, seconds and energy of a trained classifier on the same images, at ``T`` steps (None: an ANN)."""
    if T:
        set_time_steps(model, T)
    right = images = seconds = 0
    with evaluating(model.to(memory_format=torch.channels_last)):
        for batch in loader(cfg, 'test', args.batch_size, args.num_images):
            inputs, labels = prepare(model, batch)
            start = clock(inputs.device)
            scores = model.head.fc(model.extract_feat(inputs)[-1])
            seconds += clock(inputs.device) - start
            right, images = right + int((scores.argmax(1) == labels).sum()), images + len(labels)
    report = count_energy(model, loader(cfg, 'test', args.batch_size, min(args.count, images)))
    return dict(
        accuracy=round(100 * right / images, 2),
        images=images,
        **{f'{args.device}_seconds': seconds / images},
        **{key: report.total(key) for key in ('acs', 'macs', 'energy_uj')},
    )


def settings(args: argparse.Namespace) -> dict:
    """The settings that results of one file must share."""
    given = dict(config=args.config, checkpoint=Path(args.checkpoint).name, device=args.device)
    return dict(given, calibration=args.calibration, max_T=args.max_T)


def first_to_reach(points: dict[str, dict], accuracy: float) -> int | None:
    """The smallest number of steps at which a curve reaches ``accuracy``, or None."""
    return next((int(t) for t, point in points.items() if point['accuracy'] >= accuracy), None)


def draw(result: dict, path: Path) -> None:
    """Draw accuracy against T and against energy."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout='constrained', sharey=True)
    for (name, recipe), style in zip(result['recipes'].items(), ('o-', 's--', '^-.'), strict=False):
        points = recipe['curve']
        accuracy = [p['accuracy'] for p in points.values()]
        left.plot(
            [int(t) for t in points], accuracy, style, label=f'{RECIPES[name]}, {recipe["state"]["images"]} images'
        )
        if all('energy_uj' in p for p in points.values()):
            right.plot([p['energy_uj'] for p in points.values()], accuracy, style)
    for (name, by_T), mark in zip(result['students'].items(), 'DPX*v<>hp', strict=False):
        label = f'{name}, {next(iter(by_T.values()))["images"]} images'
        for axis, x in ((left, [int(t) for t in by_T]), (right, [p['energy_uj'] for p in by_T.values()])):
            axis.plot(x, [p['accuracy'] for p in by_T.values()], mark + '-', color='black', ms=8, label=label)
    for axis in (left, right):
        axis.axhline(result['ann']['accuracy'], color='grey', ls=':', label='the ANN')
        axis.set_xscale('log', base=2 if axis is left else 10)
        axis.grid(alpha=0.3)
    right.plot(result['ann']['energy_uj'], result['ann']['accuracy'], 'o', color='grey')
    left.set(xlabel='time steps', ylabel='top-1 (%)')
    right.set(xlabel='energy per image (µJ, 45 nm)')
    left.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv=None) -> dict:
    """Run the command line ``argv`` (default: ``sys.argv``); returns the result."""
    args = parse_args(argv)
    cfg = read(args.config)
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    result = json.loads(args.out.read_text()) if args.out.is_file() else dict(settings=settings(args), recipes={})
    if result['settings'] != settings(args):
        raise SystemExit(f'{args.out} has other settings: {result["settings"]}; choose another --out')
    times = [t for t in TIMES if t <= args.max_T]
    revision = commit()

    def save():
        result.update(
            command='python tools/analysis_tools/conversion.py ' + shlex.join(argv or sys.argv[1:]),
            commit=revision,
            versions=dict(mmsnn=mmsnn.__version__, torch=torch.__version__),
        )
        args.out.parent.mkdir(parents=True, exist_ok=True)
        aside = args.out.with_suffix('.tmp')
        aside.write_text(json.dumps(result, indent=1) + '\n')
        aside.replace(args.out)

    ann = build_model(cfg)
    load_weights(ann, args.checkpoint, cfg=cfg.model)
    ann.to(args.device)
    result['ann'] = judge(ann, cfg, args, None)
    print(f'ANN: {result["ann"]["accuracy"]:.2f} % of {result["ann"]["images"]} images', flush=True)
    calibration = [prepare(ann, b)[:1] for b in loader(cfg, 'train', args.batch_size, args.calibration)]
    for name in args.recipes:
        recipe = result['recipes'].setdefault(name, {})
        empty = dict(images=0, counted=0, timed=0, right={}, acs={}, macs={}, seconds={})
        state = recipe.setdefault('state', empty)
        model, seen = None, 0
        for batch in loader(cfg, 'test', args.batch_size, args.num_images):
            seen += len(batch['inputs'])
            if seen <= state['images']:
                continue
            if seen - len(batch['inputs']) != state['images']:
                raise SystemExit(f'{args.out} holds {state["images"]} images, not a multiple of --batch-size')
            model = model or convert(cfg, args.checkpoint, name, calibration)
            images, labels = prepare(ann, batch)
            counted = state['counted'] < args.count
            add(state, simulate(model, images, labels, times, counted), len(labels), counted)
            recipe['curve'] = curve(state, args.device)
            save()
            last = recipe['curve'][str(times[-1])]['accuracy']
            print(f'{RECIPES[name]}: {state["images"]} images, {last:.2f} % at T={times[-1]}', flush=True)
    result['students'] = {}
    for student in args.students:
        name, config, checkpoint = student.split('=')
        own = use_student(read(config))
        model = build_model(own)
        load_weights(model, checkpoint, cfg=own.model)
        model.to(args.device)
        result['students'][name] = by_T = {str(T): judge(model, own, args, T) for T in args.student_T}
        reached = {
            r: first_to_reach(v['curve'], max(p['accuracy'] for p in by_T.values()))
            for r, v in result['recipes'].items()
        }
        for T, point in by_T.items():
            print(f'{name}, T={T}: {point["accuracy"]:.2f} %, {point["energy_uj"]:.2f} µJ')
        print(
            'conversion reaches its accuracy at T = '
            + ', '.join(f'{t or "never"} ({RECIPES[r]})' for r, t in reached.items())
        )
    save()
    draw(result, args.out.with_suffix('.png'))
    return result


if __name__ == '__main__':
    run_main(main)
