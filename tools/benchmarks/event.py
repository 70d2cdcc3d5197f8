"""Time the event-driven engine against ANN twins, the dense path and SpikingJelly, at measured spike densities.

All sides of a case run in turn in one process (SpikingJelly in its own), on the same images. Weights are random, batch
norms have the statistics of noise, and the threshold determines the firing rates. The density is the measured share of
nonzero inputs of convolutions after neurons. Cases in the output file are not run again, so a run can be interrupted.

Example::

    python tools/benchmarks/event.py --out tools/benchmarks/results/event_cpu.json
    python tools/benchmarks/event.py --quick --clock cpu
"""

import argparse
import copy
import importlib.util
import io
import itertools
import json
import logging
import tempfile
import time
from pathlib import Path

import matplotlib
import torch
from mmengine.logging import MMLogger
from torch import nn

import mmsnn
from mmsnn.analysis import pairing
from mmsnn.inference.choice import TRIALS
from mmsnn.refusals import run_main
from mmsnn.registry import MODELS

PEER = Path(__file__).with_name('spikingjelly_peer.py')
OURS, ANN = 'mmsnn, events', 'ANN, eager'
# type, depth and further arguments of the backbone
NETWORKS = {
    'sew18': ('SEWResNet', 18, {}),
    'sew34': ('SEWResNet', 34, {}),
    'spiking18': ('SpikingResNet', 18, {}),
    'ms18': ('MSResNet', 18, dict(zero_init_residual=False)),
}
JELLIES = {'SEWResNet': 'sew', 'SpikingResNet': 'spiking'}
CLASSES = 1000


class Classifier(nn.Module):
    """A backbone, global pooling and a linear layer, with SpikingJelly's names of parameters."""

    def __init__(self, kind: str, depth: int, T: int, v_threshold: float, **rest):
        super().__init__()
        neuron = dict(type='LIF', v_threshold=v_threshold)
        self.backbone = MODELS.get(kind)(depth, T=T, neuron=neuron, out_indices=(3,), **rest)
        self.fc = nn.Linear(self.backbone.out_channels[0], CLASSES)

    def forward(self, x):
        return self.fc(self.backbone(x)[0].mean((2, 3)))


def fitted(net: nn.Module, size: int) -> nn.Module:
    """``net`` in evaluation mode, with the statistics of noise in its batch norms."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        net.train()(torch.randn(4, 3, size, size))
    return net.eval().to(memory_format=torch.channels_last)


def twin(depth: int) -> nn.Module:
    """Torchvision's ResNet with norms folded into convolutions."""
    import torch.fx.experimental.optimization as optimization
    import torchvision

    ann = getattr(torchvision.models, f'resnet{depth}')().eval()
    return optimization.fuse(ann).to(memory_format=torch.channels_last)


def onnx_session(ann: nn.Module, x: torch.Tensor, threads: int):
    """A function without arguments that runs ``ann`` on ``x`` in ONNX Runtime."""
    import onnxruntime

    file = io.BytesIO()
    torch.onnx.export(ann, (x,), file, input_names=['x'], dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=['CPUExecutionProvider'])
    feed = dict(x=x.contiguous().numpy())
    return lambda: session.run(None, feed)


def timer(work, clock: str):
    """A function that runs ``work`` without gradients and returns the seconds that it took."""
    read = time.process_time if clock == 'cpu' else time.perf_counter

    def run() -> float:
        with torch.inference_mode():
            start = read()
            work()
            return read() - start

    return run


class Sides:
    """The sides of the cases; networks that take long to build are kept for the next case."""

    def __init__(self, args):
        self.args = args
        self.anns, self.compiled, self.sessions = {}, {}, {}

    def of_ann(self, depth: int, x: torch.Tensor, threads: int, missing: dict) -> dict:
        """The ANN twin in eager PyTorch, compiled, and in ONNX Runtime if that is installed."""
        if depth not in self.anns:
            self.anns[depth] = twin(depth)
        ann = self.anns[depth]
        sides = {ANN: lambda: ann(x)}
        key = depth, len(x), threads
        if self.args.compile:
            if key not in self.compiled:
                torch._dynamo.reset()
                self.compiled = {key: torch.compile(copy.deepcopy(ann))}
            compiled = self.compiled[key]
            sides['ANN, torch.compile'] = lambda: compiled(x)
        if importlib.util.find_spec('onnxruntime') is None:
            missing['ANN, ONNX Runtime'] = 'onnxruntime is not installed'
            return sides
        if key not in self.sessions:
            self.sessions[key] = onnx_session(ann, x, threads)
        sides['ANN, ONNX Runtime'] = self.sessions[key]
        return sides

    def of_jelly(self, kind: str, depth: int, net: Classifier, x: torch.Tensor, v: float, folder: str, missing: dict):
        """The peer that runs SpikingJelly's network with the same weights, and its logits; (None, None) without one."""
        if not self.args.jelly or kind not in JELLIES:
            missing['SpikingJelly'] = 'switched off' if kind in JELLIES else f'it has no {kind}'
            return None, None
        peer = pairing.Peer(PEER)
        try:
            weights = {key.removeprefix('backbone.'): value for key, value in net.state_dict().items()}
            frames = x.unsqueeze(0).repeat(self.args.T, 1, 1, 1, 1)
            torch.save(dict(weights=weights, x=frames, labels=torch.zeros(len(x), dtype=torch.long)), f'{folder}/d.pt')
            peer.ask(
                op='make', what='sew', network=JELLIES[kind], depth=depth, classes=CLASSES, amp=False, lr=0.0,
                v_threshold=v, device='cpu', threads=torch.get_num_threads(), data=f'{folder}/d.pt',
            )  # fmt: skip
            peer.ask(op='logits', path=f'{folder}/r.pt')
        except RuntimeError as error:
            peer.close()
            missing['SpikingJelly'] = str(error)
            return None, None
        return peer, torch.load(f'{folder}/r.pt', weights_only=True)['logits']


def run_case(case: dict, sides: Sides, folder: str) -> dict:
    """Measure one case; returns it with its results. SystemExit if events give other logits than the dense path."""
    args = sides.args
    kind, depth, rest = NETWORKS[case['network']]
    torch.set_num_threads(case['threads'])
    torch.manual_seed(0)
    net = fitted(Classifier(kind, depth, args.T, case['v_threshold'], **rest), args.size)
    x = torch.randn(case['batch'], 3, args.size, args.size).to(memory_format=torch.channels_last)
    events = mmsnn.event_driven(copy.deepcopy(net))
    halves = mmsnn.event_driven(copy.deepcopy(net), weights='bfloat16')
    with torch.inference_mode():
        dense = net(x)
        parity = {OURS: difference(events(x), dense), 'mmsnn, events, 16-bit weights': difference(halves(x), dense)}
        # both have chosen their way before they are timed
        for _ in TRIALS:
            events(x), halves(x)
    report = mmsnn.event_report(events)
    if parity[OURS] > 0.01:
        raise SystemExit(
            f'{case}: the logits on events differ by {parity[OURS]:.1%} of the largest logit; no time is reported'
        )
    missing = {}
    work = {
        OURS: lambda: events(x),
        'mmsnn, events, 16-bit weights': lambda: halves(x),
        **sides.of_ann(depth, x, case['threads'], missing),
    }
    slow = {'mmsnn, dense': lambda: net(x)}
    runs = {name: timer(each, args.clock) for name, each in {**work, **slow}.items()}
    peer, logits = sides.of_jelly(kind, depth, net, x, case['v_threshold'], folder, missing)
    if peer is not None:
        parity['SpikingJelly'] = difference(logits, dense)
        runs['SpikingJelly'] = lambda: peer.ask(op='infer')['cpu_seconds' if args.clock == 'cpu' else 'seconds']
    try:
        seconds = pairing.interleave(runs, args.rounds)
    finally:
        if peer is not None:
            peer.close()
    table = pairing.compare(seconds, OURS)
    for name, values in seconds.items():
        table[name]['least_milliseconds'] = round(min(values) * 1e3, 3)
        table[name]['ratio_of_least'] = round(min(values) / min(seconds[OURS]), 4)
    layers = {name: dict(runs=c.how, density=c.density) for name, c in report.items()}
    whole = [timing.way for timing in report.timings]
    return {
        **case,
        'density': report.density,
        'runs': whole,
        'table': table,
        'parity': parity,
        'missing': missing,
        'layers': layers,
    }


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, relative to the largest logit."""
    return ((a - b).abs().max() / b.abs().max()).item()


def draw(results: list[dict], path: Path) -> None:
    """Draw the time relative to the ANN against density, in a panel for each batch and number of threads."""
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    panels = sorted({(r['batch'], r['threads']) for r in results})
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.6), squeeze=False, sharey=True)
    for axis, (batch, threads) in zip(axes[0], panels):
        here = [r for r in results if (r['batch'], r['threads']) == (batch, threads)]
        for network in dict.fromkeys(r['network'] for r in here):
            rows = sorted((r for r in here if r['network'] == network), key=lambda r: r['density'])
            ratios = [r['table'][OURS]['least_milliseconds'] / r['table'][ANN]['least_milliseconds'] for r in rows]
            axis.plot([100 * r['density'] for r in rows], ratios, marker='o', label=network)
        axis.axhline(1, color='black', linewidth=1, label='ANN, eager, norms folded')
        for name, style in (('ANN, torch.compile', '--'), ('ANN, ONNX Runtime', ':')):
            lines = [r['table'][name]['least_milliseconds'] / r['table'][ANN]['least_milliseconds']
                     for r in here if name in r['table']]  # fmt: skip
            if lines:
                axis.axhline(sorted(lines)[len(lines) // 2], color='black', linewidth=1, linestyle=style, label=name)
        axis.set(title=f'batch {batch}, threads {threads}', xlabel='density of inputs (%)', ylim=(0, None))
    axes[0][0].set_ylabel("time relative to the ANN's")
    axes[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(argv=None) -> list[dict]:
    """Run the command line ``argv`` (default: ``sys.argv``); returns the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--networks', nargs='+', choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument(
        '--v-threshold', nargs='+', type=float, default=[1.0, 1.25, 1.5, 2.0], help='determines the densities'
    )
    parser.add_argument('--batch', nargs='+', type=int, default=[1, 8])
    parser.add_argument('--threads', nargs='+', type=int, default=[1, 2])
    parser.add_argument('--T', type=int, default=4)
    parser.add_argument('--size', type=int, default=224, help='side of the images in pixels')
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument(
        '--clock', choices=['wall', 'cpu'], default='wall', help='cpu: for a shared machine, with one thread'
    )
    parser.add_argument('--no-compile', dest='compile', action='store_false', help='leave torch.compile out')
    parser.add_argument('--no-jelly', dest='jelly', action='store_false', help='leave SpikingJelly out')
    parser.add_argument(
        '--quick', action='store_true', help='only SEW-ResNet-18, batch 1, one thread, without torch.compile'
    )
    parser.add_argument('--out', type=Path, help='write the results as JSON, and a plot beside it')
    args = parser.parse_args(argv)
    if args.quick:
        args.networks, args.batch, args.threads, args.compile, args.rounds = ['sew18'], [1], [1], False, 5
    if args.clock == 'cpu' and set(args.threads) != {1}:
        parser.error('--clock cpu also counts the time in which threads wait: use it with --threads 1')
    MMLogger.get_instance('mmsnn', log_level='WARNING')
    logging.getLogger('torch').setLevel(logging.ERROR)
    settings = dict(T=args.T, size=args.size, clock=args.clock)
    results, sides = [], Sides(args)
    if args.out and args.out.exists():
        results = json.loads(args.out.read_text())['results']
    done = [{key: r.get(key) for key in ('network', 'batch', 'threads', 'v_threshold', *settings)} for r in results]
    with tempfile.TemporaryDirectory() as folder:
        # this order of loops lets all cases of a batch and number of threads share one compiled network
        for threads, batch, network, v in itertools.product(args.threads, args.batch, args.networks, args.v_threshold):
            case = dict(network=network, batch=batch, threads=threads, v_threshold=v, **settings)
            if case in done:
                continue
            result = run_case(case, sides, folder)
            results.append(result)
            print(
                f'\n{network}, batch {batch}, threads {threads}, density {result["density"]:.1%}: time relative to '
                f'{OURS}, then absolute'
            )
            print('\n'.join(pairing.lines(result['table'])), flush=True)
            ratio = result['table'][ANN]['least_milliseconds'] / result['table'][OURS]['least_milliseconds']
            print(f'by the shortest times the ANN takes {ratio:.2f} times as long', flush=True)
            for name, reason in result['missing'].items():
                print(f'{name}: {reason}')
            if args.out:
                pairing.save(args.out, pairing.circumstances(), results)
                draw(results, args.out.with_suffix('.png'))
    return results


if __name__ == '__main__':
    run_main(main)
