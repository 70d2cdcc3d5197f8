"""Export a trained network to torch.export (pt2), ONNX or NIR, compare it with PyTorch, and write a card about it."""

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
from mmsnn.engine.options import add_cfg_options, positive
from mmsnn.layers import image_channels
from mmsnn.refusals import run_main
from mmsnn.shipped import local

SUFFIXES = dict(pt2='.pt2', onnx='.onnx', nir='.nir')


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or mmsnn::PATH; of a distillation config, the student is exported')
    parser.add_argument('checkpoint', help='its weights, a .pth file or mmsnn://NAME')
    parser.add_argument('--to', choices=list(SUFFIXES), required=True, help='format of the file')
    parser.add_argument('--out', type=Path, required=True, metavar='FILE', help='file to write')
    parser.add_argument('--shape', nargs=2, type=positive, metavar=('H', 'W'), help="in pixels; default: the config's")
    parser.add_argument('--T', type=positive, metavar='N', help='time steps, if not those of the config')
    parser.add_argument(
        '--streaming', action='store_true', help='one time step, with membranes as input and output (pt2, onnx)'
    )
    parser.add_argument('--plain', action='store_true', help='a pt2 file that loads where mmsnn is not installed')
    parser.add_argument('--static-batch', type=positive, metavar='B', help='export for batches of exactly B images')
    parser.add_argument('--int8', action='store_true', help='also write FILE.int8.onnx, calibrated on training images')
    parser.add_argument(
        '--calibrate', type=positive, default=64, metavar='N', help='number of these training images (default: 64)'
    )
    parser.add_argument(
        '--verify',
        nargs='?',
        type=int,
        const=0,
        metavar='N',
        help="run the file on the test set (or its first N images) and print its metric beside PyTorch's",
    )
    add_cfg_options(parser)
    parser.set_defaults(work_dir=None, launcher='none')
    args = parser.parse_args(argv)
    if args.streaming and args.to == 'nir':
        parser.error('--streaming: a NIR file always describes a single time step; leave the option out')
    if args.int8 and (args.to != 'onnx' or args.streaming):
        parser.error('--int8 needs --to onnx without --streaming')
    if args.plain and args.to != 'pt2':
        parser.error('--plain needs --to pt2: the other formats never contain operations of mmsnn')
    if args.verify is not None and (args.to == 'nir' or args.streaming):
        parser.error('--verify runs all time steps at once, which NIR and --streaming do not: leave it out')
    if args.out.suffix != SUFFIXES[args.to]:
        parser.error(f'--out: the file must end with {SUFFIXES[args.to]}, got {str(args.out)!r}')
    return args


class Deployment:
    """One run of the tool: it writes the files, compares them with PyTorch, and collects the facts for the card."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.console = args, Console()
        if not self.console.is_terminal:
            self.console = Console(width=140)
        self.cfg = read_config(args)
        self.model = load_model(self.cfg, args.checkpoint)
        if args.T is not None:
            mmsnn.set_time_steps(self.model, args.T)
        if not any(neurons_of(self.model)):
            self.say('this network has no spiking neurons: it is exported as an ANN')
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
        """Random inputs, in batches of several sizes unless the batch is static."""
        sizes = [self.args.static_batch] if self.args.static_batch else [1, 3]
        return [sample_like((n, *self.shape), seed=n) for n in sizes]

    def step_like(self, x: Tensor) -> Tensor:
        """The part of ``x`` that a single time step is given."""
        return x[:, :1] if len(self.shape) == 4 else x

    def run(self) -> dict:
        """Write the files, compare them with PyTorch, and write the card; returns the card."""
        start = time.monotonic()
        args = self.args
        if args.to == 'nir':
            if not any(neurons_of(self.model)):
                raise SystemExit(
                    f'--to nir: {args.config} has no spiking neuron, and NIR describes spiking networks; write it as '
                    '--to onnx or --to pt2'
                )
            files = self.nir()
        elif args.streaming:
            files = self.streaming()
        else:
            files = self.folded()
        with torch.no_grad():
            outputs = dict(zip(self.names, self.network(self.sample)))
        rates = None
        if any(neurons_of(self.model)):
            # a rate on random inputs says little, so the card names the inputs
            rates = firing_rates(self.network, self.rate_inputs)
            self.found['firing_rate_measured_on'] = self.rates_of
        facts = card(self.model, self.shape, outputs, rates)
        facts = (
            dict(config=args.config, checkpoint=args.checkpoint, checkpoint_sha256=digest(local(args.checkpoint)))
            | facts
        )
        facts |= self.found | dict(files={path.name: digest(path) for path in files}, seconds=time.monotonic() - start)
        path = args.out.with_name(f'{args.out.name}.card.json')
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
        """Write all T time steps as pt2 or ONNX; returns the files."""
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
        """Write ``graph``; returns a function that runs the file."""
        out = self.args.out
        if self.args.to == 'onnx':
            save_onnx(graph, out)
            if foreign := custom_operators(out):
                raise RuntimeError(f'{out} contains operators that are not standard in ONNX: {", ".join(foreign)}')
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
        self.say(f"{what}{difference} from PyTorch on random inputs (float64 moves PyTorch's by {own.largest:.3g})")

    def test(self, runs: dict) -> None:
        """Print the metrics of PyTorch and of every file on the test set."""
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
            table.add_row(metric, *[f'{result.metrics.get(metric, float("nan")):.4f}' for result in tested.values()])
        table.add_row('largest difference', *[f'{result.difference.largest:.3g}' for result in tested.values()])
        self.console.print(table)
        self.found['test_set'] = {
            name: dict(metrics=result.metrics, difference=vars(result.difference)) for name, result in tested.items()
        }

    def streaming(self) -> list[Path]:
        """Write one time step as pt2 or ONNX, and compare T steps with the network; returns the files."""
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
        self.say(f'after {T} steps: {largest} from PyTorch on random inputs')
        states = {name: list(shape) for name, (shape, _) in zip(stream.state_names, stream.first)}
        self.found |= dict(streaming=dict(state=states, start=[value for _, value in stream.first]))
        self.found['difference_on_random_inputs'] = dict(file=vars(largest))
        return [self.args.out]

    def nir(self) -> list[Path]:
        """Write the parts that NIR can express, and read them back by two readers; returns the files."""
        exported = NirExport(self.model, self.step_like(self.sample))
        files = exported.save(self.args.out)
        x = sample_like((1, *self.shape), seed=1)
        T = mmsnn.get_time_steps(self.model)
        steps = x.transpose(0, 1).unsqueeze(1) if len(self.shape) == 4 else x.expand(T, 1, *self.shape)
        differences = read_back(exported, files, steps)
        table = Table(title='NIR files read back: largest difference of the outputs, averaged over time')
        for column in ('file', 'layers of neurons', *differences[0]):
            table.add_column(column)
        for part, file, by_reader in zip(exported.parts, files, differences):
            cells = [v if isinstance(v, str) else f'{v:.3g}' for v in by_reader.values()]
            table.add_row(file.name, str(part.neurons), *cells)
        self.console.print(table)
        for refusal in exported.refusals:
            self.say(f'not exported: {refusal}')
        if exported.whole:
            self.say('the whole network was exported')
        self.found |= dict(
            whole=exported.whole,
            read_back={file.name: by_reader for file, by_reader in zip(files, differences)},
            outside=[vars(refusal) for refusal in exported.refusals],
            seconds_of_a_time_step=1e-4,
        )
        return files


def main(argv=None) -> dict:
    """Run the command line ``argv`` (default: ``sys.argv``); returns the card."""
    return Deployment(parse_args(argv)).run()


if __name__ == '__main__':
    run_main(main)
