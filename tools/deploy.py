"""Take a trained network elsewhere: torch.export (pt2), ONNX or NIR, checked against PyTorch, with a card."""

import argparse
import json
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import mmsnn
from mmsnn.analysis import firing_rates
from mmsnn.building import image_size
from mmsnn.checkpoints.task_models import load_model
from mmsnn.deploy import verify
from mmsnn.deploy.card import card, digest
from mmsnn.deploy.graph import Graph, export, plain_neurons
from mmsnn.deploy.network import Network, check_encoder, neurons_of, sample_like
from mmsnn.deploy.nir_readers import read_back
from mmsnn.deploy.streaming import Streaming
from mmsnn.deploy.to_nir import NirExport
from mmsnn.deploy.to_onnx import OnnxFile, custom_operators, quantise, save_onnx
from mmsnn.engine.cli import read_config
from mmsnn.engine.noise import channels
from mmsnn.engine.options import add_cfg_options
from mmsnn.layers import image_channels
from mmsnn.shipped import local

SUFFIXES = dict(pt2='.pt2', onnx='.onnx', nir='.nir')


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or mmsnn::PATH; of a distillation config, the student is exported')
    parser.add_argument('checkpoint', help='its weights, a .pth file or mmsnn://NAME')
    parser.add_argument('--to', choices=list(SUFFIXES), required=True, help='format')
    parser.add_argument('--out', type=Path, required=True, metavar='FILE', help='where to write it')
    parser.add_argument('--shape', nargs=2, type=int, metavar=('H', 'W'), help="in pixels; default: the config's")
    parser.add_argument('--T', type=int, metavar='N', help='time steps, if not those of the config')
    parser.add_argument('--streaming', action='store_true', help='one time step, membranes in and out (pt2, onnx)')
    parser.add_argument('--plain', action='store_true', help='pt2 that loads where mmsnn is not installed')
    parser.add_argument('--static-batch', type=int, metavar='B', help='for batches of B images alone')
    parser.add_argument('--int8', action='store_true', help='also FILE.int8.onnx, calibrated on training images')
    parser.add_argument('--calibrate', type=int, default=64, metavar='N', help='of how many (default: 64)')
    parser.add_argument(
        '--verify',
        nargs='?',
        type=int,
        const=0,
        metavar='N',
        help='run the file on the test set (on its first N images) and print its metric beside that of PyTorch',
    )
    add_cfg_options(parser)
    parser.set_defaults(work_dir=None, launcher='none')
    args = parser.parse_args(argv)
    if args.streaming and args.to == 'nir':
        parser.error('--streaming: NIR describes one instant anyway; leave it out')
    if args.int8 and (args.to != 'onnx' or args.streaming):
        parser.error('--int8 goes with --to onnx, and not with --streaming')
    if args.plain and args.to != 'pt2':
        parser.error('--plain goes with --to pt2: the other formats know no operation of mmsnn anyway')
    if args.verify is not None and (args.to == 'nir' or args.streaming):
        parser.error('--verify runs a whole network on the test set; NIR and --streaming are compared step by step')
    if args.out.suffix != SUFFIXES[args.to]:
        parser.error(f'--out: the file must end with {SUFFIXES[args.to]}, got {str(args.out)!r}')
    return args


class Deployment:
    """One run of the tool: the model, what is written, and what was found."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.console = args, Console()
        if not self.console.is_terminal:
            self.console = Console(width=140)
        self.cfg = read_config(args)
        self.model = load_model(self.cfg, args.checkpoint)
        if args.T is not None:
            mmsnn.set_time_steps(self.model, args.T)
        if not any(neurons_of(self.model)):
            self.say('this network has no spiking neurons: it is exported as the ANN that it is')
        self.shape = self._shape()
        self.batch = args.static_batch or 2
        self.sample = sample_like((self.batch, *self.shape))
        self.network = Network(self.model)
        self.names = self.network.output_names(self.sample)
        self.found: dict = dict(format=args.to)
        args.out.parent.mkdir(parents=True, exist_ok=True)

    def say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False)

    def _shape(self) -> tuple[int, ...]:
        size = tuple(self.args.shape) if self.args.shape else image_size(self.cfg)
        if verify.image_kind(self.cfg) == 'events':
            return mmsnn.get_time_steps(self.model), image_channels(self.model), *size
        return channels(self.model), *size

    def batches(self) -> list[Tensor]:
        """Random inputs; of several sizes of batch where any will do."""
        sizes = [self.args.static_batch] if self.args.static_batch else [1, 3]
        return [sample_like((n, *self.shape), seed=n) for n in sizes]

    def step_like(self, x: Tensor) -> Tensor:
        """What a single time step is given of ``x``."""
        return x[:, :1] if len(self.shape) == 4 else x

    def run(self) -> dict:
        """Write, compare, and write the card."""
        start = time.monotonic()
        args = self.args
        if args.to == 'nir':
            files = self.nir()
        elif args.streaming:
            files = self.streaming()
        else:
            files = self.folded()
        with torch.no_grad():
            outputs = dict(zip(self.names, self.network(self.sample)))
        rates = None
        if any(neurons_of(self.model)):
            # over random inputs a rate says little: it comes with what it was measured on
            rates = firing_rates(self.network, self.rate_inputs)
            self.found['firing_rate_measured_on'] = self.rates_of
        facts = card(self.model, self.shape, outputs, rates)
        facts = (
            dict(config=args.config, checkpoint=args.checkpoint, checkpoint_sha256=digest(local(args.checkpoint)))
            | facts
        )
        facts |= self.found | dict(files={path.name: digest(path) for path in files}, seconds=time.monotonic() - start)
        path = args.out.with_suffix('.card.json')
        path.write_text(json.dumps(facts, indent=1, default=float))
        for file in files:
            self.say(f'wrote {file} ({file.stat().st_size / 2**20:.2f} MiB)')
        self.say(f'wrote {path}: T={facts["T"]}, {facts["coding"]}; readout: {", ".join(facts["readout"]) or "none"}')
        return facts

    @property
    def rate_inputs(self) -> list[Tensor]:
        return getattr(self, 'seen', None) or self.batches()

    @property
    def rates_of(self) -> str:
        return f'{len(self.seen)} images of the test set' if getattr(self, 'seen', None) else 'random inputs'

    def folded(self) -> list[Path]:
        """All T steps, as pt2 or ONNX."""
        args = self.args
        check_encoder(self.model, 'an exported graph')
        graph = export(self.network, self.sample, self.names, dynamic=not args.static_batch)
        self.say(f'{graph.folded} batch norms folded, {graph.left} left')
        self.found |= dict(norms_folded=graph.folded, norms_left=graph.left)
        run = self.save(graph)
        self.compare('', run)
        files = [args.out]
        runs = {args.out.name: run}
        if args.int8:
            small = args.out.with_suffix('.int8.onnx')
            quantise(args.out, small, verify.calibration_batches(self.cfg, self.model, self.shape, args.calibrate))
            runs[small.name] = OnnxFile(small)
            self.compare('int8: ', runs[small.name])
            files.append(small)
        if args.verify is not None:
            self.test(runs)
        return files

    def save(self, graph: Graph):
        """Write ``graph``; returns what runs the file."""
        out = self.args.out
        if self.args.to == 'onnx':
            save_onnx(graph, out)
            if foreign := custom_operators(out):
                raise RuntimeError(f'{out} holds operators that are not of ONNX: {", ".join(foreign)}')
            return OnnxFile(out)
        program = plain_neurons(graph, not self.args.static_batch) if self.args.plain else graph.program
        torch.export.save(program, out)
        loaded = torch.export.load(out).module()
        return lambda *x: tuple(loaded(*x))

    def compare(self, what: str, run) -> None:
        difference = verify.compare(run, self.network, self.batches())
        key = what.rstrip(': ') or 'file'
        self.found.setdefault('difference_on_random_inputs', {})[key] = vars(difference)
        own = verify.rounding(self.network, self.batches())
        self.found['rounding_of_pytorch'] = own.largest
        self.say(f"{what}{difference} beside PyTorch, random inputs (float64 moves PyTorch's own by {own.largest:.3g})")

    def test(self, runs: dict) -> None:
        """The metrics of PyTorch and of every file on the test set."""
        runner = verify.test_set(self.cfg, self.args.verify or None)
        network, self.seen = self.network, []

        def torch_run(x: Tensor):
            if len(self.seen) < 32:
                self.seen += list(x.split(1))[: 32 - len(self.seen)]
            with torch.no_grad():
                return network(x)

        table = Table(title='On the test set' + f', first {self.args.verify} images' * bool(self.args.verify))
        tested = {}
        for name, run in {'PyTorch': torch_run, **runs}.items():
            tested[name] = verify.run_test_set(runner, self.model, run, network, self.shape)
        for column in ('', *tested):
            table.add_column(column, justify='left' if not column else 'right')
        for metric in tested['PyTorch'].metrics:
            table.add_row(metric, *[f'{one.metrics.get(metric, float("nan")):.4f}' for one in tested.values()])
        table.add_row('largest difference', *[f'{one.difference.largest:.3g}' for one in tested.values()])
        self.console.print(table)
        self.found['test_set'] = {
            name: dict(metrics=one.metrics, difference=vars(one.difference)) for name, one in tested.items()
        }

    def streaming(self) -> list[Path]:
        """One step, as pt2 or ONNX, beside the folded run."""
        stream = Streaming(self.model, self.step_like(self.sample))
        run = self.save(stream.as_graph())
        T, largest = mmsnn.get_time_steps(self.model), verify.Difference()
        for x in self.batches():
            state = stream.start(len(x))
            for t in range(T):
                out = run(x[:, t : t + 1] if len(self.shape) == 4 else x, *state)
                outputs, state = out[: len(self.names)], out[len(self.names) :]
            with torch.no_grad():
                largest.add(outputs, self.network(x))
        self.say(f'after {T} steps: {largest} beside the folded run, random inputs')
        states = {name: list(shape) for name, (shape, _) in zip(stream.state_names, stream.first)}
        self.found |= dict(streaming=dict(state=states, start=[value for _, value in stream.first]))
        self.found['difference_on_random_inputs'] = dict(file=vars(largest))
        return [self.args.out]

    def nir(self) -> list[Path]:
        """What NIR can say, read back by two readers."""
        found = NirExport(self.model, self.step_like(self.sample))
        files = found.save(self.args.out)
        x = sample_like((1, *self.shape), seed=1)
        T = mmsnn.get_time_steps(self.model)
        steps = x.transpose(0, 1).unsqueeze(1) if len(self.shape) == 4 else x.expand(T, 1, *self.shape)
        differences = read_back(found, files, steps)
        table = Table(title='NIR, read back: largest difference of the outputs, averaged over time')
        for column in ('file', 'layers of neurons', *differences[0]):
            table.add_column(column)
        for part, file, one in zip(found.parts, files, differences):
            said = [v if isinstance(v, str) else f'{v:.3g}' for v in one.values()]
            table.add_row(file.name, str(part.neurons), *said)
        self.console.print(table)
        for refusal in found.refusals:
            self.say(f'stays outside: {refusal}')
        if found.whole:
            self.say('the whole network went')
        self.found |= dict(
            whole=found.whole,
            read_back={file.name: one for file, one in zip(files, differences)},
            outside=[vars(refusal) for refusal in found.refusals],
            seconds_of_a_time_step=1e-4,
        )
        return files


def main(argv=None) -> dict:
    """Run the command line ``argv`` (default: ``sys.argv``); returns the card."""
    return Deployment(parse_args(argv)).run()


if __name__ == '__main__':
    main()
