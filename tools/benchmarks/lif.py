"""Time the neurons against SpikingJelly, torch.compile, and copying as many bytes as must be read and written."""

import argparse
import functools
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import track

from mmsnn.analysis import pairing
from mmsnn.ops import bn_lif, lif, reference
from mmsnn.refusals import run_main

PEER = Path(__file__).with_name('spikingjelly_peer.py')
DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16, float16=torch.float16)
OURS = 'mmsnn'


def training(function, x, grad):
    """A function that runs a forward and a backward pass of ``function``."""

    def run():
        x.grad = None
        function(x).backward(grad)

    return run


def inference(function, x):
    """A function that runs a forward pass without gradients."""

    def run():
        with torch.no_grad():
            function(x)

    return run


def check(name, theirs, ours):
    """SystemExit if spikes or gradients differ from ours by more than rounding near the threshold explains."""
    loose = ours['out'].dtype != torch.float32
    scale = ours['grad'].abs().max()
    off = (theirs['grad'] - ours['grad']).abs() > (0.05 if loose else 1e-3) * scale
    spikes, gradients = ((a.float().mean().item()) for a in (theirs['out'] != ours['out'], off))
    if max(spikes, gradients) > (0.02 if loose else 1e-3):
        raise SystemExit(
            f'{name} computes something else: {spikes:.2%} of spikes and {gradients:.2%} of gradients differ; no time '
            'is reported'
        )
    return dict(spikes_differ=spikes, gradients_differ=gradients)


def one_case(args, T, folder):
    """Measure all sides at one T; returns the case with its results."""
    shape = (T, *args.shape[1:])
    dtype = DTYPES[args.dtype]
    torch.manual_seed(0)
    x = torch.randn(shape, device=args.device).to(dtype).requires_grad_()
    grad = torch.randn(shape, device=args.device).to(dtype)
    settings = dict(tau=2.0, v_reset=0.0, decay_input=True, detach_reset=args.detach_reset, surrogate=args.surrogate)
    ours = functools.partial(lif, T=T, **settings)
    x.grad = None
    out = ours(x)
    out.backward(grad)
    expected = dict(out=out.detach(), grad=x.grad.clone())

    train, infer, parity, missing = {}, {}, {}, {}
    train[OURS], infer[OURS] = training(ours, x, grad), inference(ours, x)
    # forward reads x and writes s, backward reads x and grad_s and writes grad_x: 5 tensors, where a copy moves 2
    for sides, tensors in ((train, 5), (infer, 2)):
        source = torch.zeros(x.numel() * tensors // 2, dtype=dtype, device=args.device)
        sides['copy of the useful bytes'] = functools.partial(torch.empty_like(source).copy_, source)
    if not args.no_compile:
        torch.compiler.reset()
        compiled = torch.compile(functools.partial(reference.lif, T=T, **settings), dynamic=False)
        train['torch.compile of the plain loop'] = training(compiled, x, grad)
        infer['torch.compile of the plain loop'] = inference(compiled, x)
    kernels = {}
    if args.device != 'cpu':
        both = {'forward and backward': train, 'inference': infer}
        kernels = {what: {n: pairing.kernel_time(work) for n, work in sides.items()} for what, sides in both.items()}
    train = {name: pairing.stopwatch(work, args.device) for name, work in train.items()}
    infer = {name: pairing.stopwatch(work, args.device) for name, work in infer.items()}
    if not args.no_compile:
        x.grad = None
        out = compiled(x)
        out.backward(grad)
        name = 'torch.compile of the plain loop'
        parity[name] = check(name, dict(out=out.detach(), grad=x.grad), expected)

    peers = []
    for python, backend in [(sys.executable, None), *[(p.split(',') + [None])[:2] for p in args.peer]]:
        try:
            peer = pairing.Peer(PEER, python)
            peers.append(peer)
            name = f'SpikingJelly {peer.ask(op="version")["version"]}' + (f' {backend}' if backend else '')
            torch.save(dict(x=x.detach(), grad=grad), folder / 'data.pt')
            where = dict(device=args.device, threads=torch.get_num_threads(), data=str(folder / 'data.pt'))
            peer.ask(op='make', what='lif', backend=backend, **where, **settings)
            peer.ask(op='result', path=str(folder / 'result.pt'))
        except RuntimeError as error:
            missing[python if backend is None else f'{python} {backend}'] = str(error)
            continue
        theirs = torch.load(folder / 'result.pt', weights_only=True, map_location=args.device)
        parity[name] = check(name, theirs, expected)
        train[name] = lambda peer=peer: peer.ask(op='train')['seconds']
        infer[name] = lambda peer=peer: peer.ask(op='infer')['seconds']
    try:
        tables = {
            what: pairing.compare(pairing.interleave(sides, args.rounds), OURS)
            for what, sides in (('forward and backward', train), ('inference', infer))
        }
    finally:
        for peer in peers:
            peer.close()
    head = dict(T=T, shape=list(shape), dtype=args.dtype)
    return dict(head, tables=tables, kernel_milliseconds=kernels, parity=parity, missing=missing)


def norm_case(args, T):
    """Measure batch norm and neuron in two ops and in one op; returns the case with its results."""
    shape = (args.shape[0] * args.shape[1], *args.shape[2:])
    dtype = DTYPES[args.dtype]
    x = torch.randn(shape, device=args.device).to(dtype)
    channels = shape[1]
    new = functools.partial(torch.ones, channels, device=args.device)
    weight, bias, mean, var = new().requires_grad_(), new().requires_grad_(), new(), new()
    grad = torch.randn_like(x)
    tables = {}
    for name, memory_format in (('NCHW', torch.contiguous_format), ('channels_last', torch.channels_last)):
        y = x.contiguous(memory_format=memory_format).requires_grad_()
        g = grad.contiguous(memory_format=memory_format)

        def apart(x, training=True):
            return lif(F.batch_norm(x, mean, var, weight, bias, training), T)

        def fused(x, training=True):
            return bn_lif(x, T, mean, var, weight, bias, training=training)

        sides = {
            OURS + '.ops.bn_lif': training(fused, y, g),
            "torch's batch norm, mmsnn.ops.lif": training(apart, y, g),
        }
        sides = {key: pairing.stopwatch(work, args.device) for key, work in sides.items()}
        tables[f'{name}, forward and backward'] = pairing.compare(
            pairing.interleave(sides, args.rounds), OURS + '.ops.bn_lif'
        )
        both = [functools.partial(f, training=False) for f in (fused, apart)]
        sides = dict(zip(sides, [pairing.stopwatch(inference(f, y), args.device) for f in both]))
        tables[f'{name}, inference'] = pairing.compare(pairing.interleave(sides, args.rounds), OURS + '.ops.bn_lif')
    return dict(T=T, shape=list(shape), dtype=args.dtype, tables=tables)


def plot(cases, path):
    """Draw the median time of each side in milliseconds against T."""
    import matplotlib

    matplotlib.use('agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout='constrained')
    for axis, what in zip(axes, ('forward and backward', 'inference')):
        names = {name: None for case in cases for name in case['tables'][what]}
        for name in names:
            rows = [(c['T'], c['tables'][what][name]) for c in cases if name in c['tables'][what]]
            style = dict(linestyle='--', color='grey') if name.startswith('copy') else dict(marker='o')
            axis.plot([T for T, _ in rows], [r['milliseconds']['median'] for _, r in rows], label=name, **style)
        axis.set(title=what, xlabel='time steps T', ylabel='milliseconds', xscale='log', yscale='log')
        axis.set_xticks([c['T'] for c in cases], [str(c['T']) for c in cases])
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main(argv=None):
    """Run the command line ``argv`` (default: ``sys.argv``)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--shape', type=int, nargs='+', default=[4, 8, 64, 56, 56], help='[T, B, C, H, W]')
    parser.add_argument('--T', type=int, nargs='+', help='numbers of time steps; default: that of --shape')
    parser.add_argument('--dtype', choices=DTYPES, default='float32')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--surrogate', choices=list(reference.SURROGATES), default='atan')
    parser.add_argument('--detach-reset', action='store_true')
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--no-compile', action='store_true', help='leave torch.compile out')
    parser.add_argument('--no-norm', action='store_true', help='leave batch norm out')
    parser.add_argument(
        '--peer', action='append', default=[], metavar='PYTHON[,BACKEND]',
        help='also time SpikingJelly in another environment, e.g. version 2.0.0rc1 with triton',
    )  # fmt: skip
    parser.add_argument('--out', type=Path, help='write the results as JSON, and a plot beside it')
    args = parser.parse_args(argv)
    cases, norms = [], []
    with tempfile.TemporaryDirectory() as folder:
        for T in track(args.T or args.shape[:1], description='lif'):
            cases.append(one_case(args, T, Path(folder)))
    if not args.no_norm:
        norms.append(norm_case(args, args.shape[0]))
    for case in cases + norms:
        for what, table in case['tables'].items():
            print(f'\nT={case["T"]}, {case["shape"]}, {case["dtype"]}, {what}: time relative to mmsnn, then absolute')
            print('\n'.join(pairing.lines(table)))
            for name, time in case.get('kernel_milliseconds', {}).get(what, {}).items():
                print(f'{name:<34} kernels alone {time:.3f} ms')
        for name, reason in case.get('missing', {}).items():
            print(f'SpikingJelly in {name} is left out: {reason}')
    if args.out:
        pairing.save(args.out, pairing.circumstances(args.device), cases + norms)
        plot(cases, args.out.with_suffix('.png'))


if __name__ == '__main__':
    run_main(main)
