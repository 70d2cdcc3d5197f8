"""Time a trained spiking network on events against its trained ANN twin, with the accuracy of both, on its test images.

All sides of a case run in turn in one process, on the same images: the whole network up to the output of its head
(``mode='tensor'``), and its backbone alone. Norms of the twin are folded into its convolutions. Accuracies are those of
the whole test set, on events. The density is the measured share of nonzero inputs of convolutions after neurons.

Example::

    python tools/benchmarks/trained.py mmsnn::spiking/retinanet_sew18_digits.py mmsnn://retinanet_sew18_digits_sakd \
        --twin mmsnn::ann/retinanet_r18_digits.py mmsnn://retinanet_r18_digits --T 1 2 4 --out trained.json
"""

import argparse
import copy
import tempfile
from pathlib import Path

import torch
from mmcv.cnn import fuse_conv_bn
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from torch import nn

import mmsnn
from mmsnn.analysis import pairing
from mmsnn.building import read, use_student
from mmsnn.checkpoints.task_models import load_model
from mmsnn.engine.cli import build_runner, complete_loaders
from mmsnn.inference.choice import TRIALS
from mmsnn.refusals import run_main

OURS = 'SNN, events'


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of the spiking network, or a distillation config')
    parser.add_argument('checkpoint', help='its weights, a .pth file or mmsnn://NAME')
    parser.add_argument('--twin', nargs=2, required=True, metavar=('CONFIG', 'CHECKPOINT'), help='the ANN twin')
    parser.add_argument('--T', nargs='+', type=int, default=[1, 2, 4], help='time steps (default: 1 2 4)')
    parser.add_argument('--batch', nargs='+', type=int, default=[1, 8], help='images at once (default: 1 8)')
    parser.add_argument('--threads', nargs='+', type=int, default=[1], help='default: 1')
    parser.add_argument('--rounds', type=int, default=15, help='times that each side is measured (default: 15)')
    parser.add_argument('--no-accuracy', dest='accuracy', action='store_false', help='do not run the test set')
    parser.add_argument('--out', type=Path, help='write the results as JSON')
    return parser.parse_args(argv)


def images(cfg: Config, model: nn.Module, count: int) -> torch.Tensor:
    """The first ``count`` test images of one size after preprocessing, ``[count, 3, H, W]``, channels last."""
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    sizes: dict = {}
    for i in range(len(dataset)):
        inputs = model.data_preprocessor(pseudo_collate([dataset[i]]), False)['inputs']
        same_size = sizes.setdefault(tuple(inputs.shape[1:]), [])
        same_size.append(inputs)
        if len(same_size) == count:
            return torch.cat(same_size).contiguous(memory_format=torch.channels_last)
    raise ValueError(f'--batch {count}: the test set does not have {count} images of one size')


def accuracy(cfg: Config, checkpoint: str, T: int | None = None) -> dict:
    """The metrics on the whole test set; with ``T``, those of the spiking network with T time steps on events."""
    cfg = copy.deepcopy(cfg)
    with tempfile.TemporaryDirectory() as folder:
        cfg.update(load_from=checkpoint, resume=False, work_dir=folder, launcher='none')
        complete_loaders(cfg)
        runner = build_runner(cfg)
        if T is not None:
            mmsnn.event_driven(mmsnn.set_time_steps(runner.model, T) or runner.model)
        # mmseg's are NumPy's, which JSON does not know
        return {name: float(value) for name, value in runner.test().items()}


def logits(output) -> list[torch.Tensor]:
    """All tensors of an output."""
    if isinstance(output, torch.Tensor):
        return [output]
    return [tensor for part in output for tensor in logits(part)]


def run_case(snn: nn.Module, ann: nn.Module, x: torch.Tensor, T: int, rounds: int) -> dict:
    """Times of the networks and of their backbones, the density, and the difference of events from the dense path."""
    mmsnn.set_time_steps(snn, T)
    parts = dict(whole=(snn, ann), backbone=(snn.backbone, ann.backbone))
    times, parity, runs, density = {}, {}, {}, None
    for part, (spiking, twin) in parts.items():
        events = mmsnn.event_driven(copy.deepcopy(spiking))
        forced = mmsnn.event_driven(copy.deepcopy(spiking), engine='event')
        networks = {OURS: events, 'SNN, all on events': forced, 'SNN, dense': spiking, 'ANN, norms folded': twin}
        with torch.inference_mode():
            pairs = list(zip(logits(forced(x)), logits(spiking(x)), strict=True))
            parity[part] = max(((a - b).abs().max() / b.abs().max().clamp(min=1e-12)).item() for a, b in pairs)
            # it has chosen its way before it is timed
            for _ in TRIALS:
                events(x)
            runs[part] = [timing.way for timing in mmsnn.event_report(events).timings]
            density = density or mmsnn.event_report(forced).density
            sides = {name: pairing.stopwatch(lambda net=net: net(x)) for name, net in networks.items()}
            times[part] = pairing.compare(pairing.interleave(sides, rounds), OURS)
    return dict(density=density, parity=parity['whole'], runs=runs, **times)


def main(argv=None) -> list[dict]:
    """Run the command line ``argv`` (default: ``sys.argv``); returns the results."""
    args = parse_args(argv)
    configs = use_student(read(args.config)), use_student(read(args.twin[0]))
    snn, ann = (load_model(c, k) for c, k in zip(configs, (args.checkpoint, args.twin[1])))
    snn, ann = (net.to(memory_format=torch.channels_last) for net in (snn, fuse_conv_bn(ann)))
    about = dict(config=args.config, checkpoint=args.checkpoint, twin=args.twin)
    metrics = {T: accuracy(configs[0], args.checkpoint, T) for T in args.T} if args.accuracy else {}
    of_twin = accuracy(configs[1], args.twin[1]) if args.accuracy else {}
    results = []
    with DefaultScope.overwrite_default_scope(configs[0].get('default_scope')):
        batches = {count: images(configs[0], snn, count) for count in args.batch}
    for threads in args.threads:
        torch.set_num_threads(threads)
        for count, x in batches.items():
            for T in args.T:
                case = dict(T=T, batch=count, threads=threads, size=list(x.shape[2:]))
                results.append({**case, **run_case(snn, ann, x, T, args.rounds), 'accuracy': metrics.get(T, {})})
                print(f'\nT={T}, batch {count}, threads {threads}: density {results[-1]["density"]:.1%}')
                for part in ('whole', 'backbone'):
                    print(f'{part}: time relative to {OURS}, then absolute')
                    print('\n'.join(pairing.lines(results[-1][part])), flush=True)
    if args.out:
        pairing.save(args.out, {**pairing.circumstances(), **about, 'accuracy_of_twin': of_twin}, results)
    return results


if __name__ == '__main__':
    run_main(main)
