"""Count the multiply-accumulates of a config's model by module: for its ANN twin, one time step and all time steps."""

import argparse
import json
from pathlib import Path

import torch
from rich.console import Console

import mmsnn
from mmsnn.analysis import count_macs
from mmsnn.analysis.macs import MacReport
from mmsnn.building import build_model, image_size
from mmsnn.engine.cli import read_config
from mmsnn.engine.options import add_cfg_options, positive
from mmsnn.refusals import run_main


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or mmsnn::PATH; of a distillation config, the student is counted')
    parser.add_argument('--shape', nargs=2, type=positive, metavar=('H', 'W'), help="in pixels; default: the config's")
    parser.add_argument('--T', type=positive, metavar='N', help="time steps, if not the config's")
    parser.add_argument('--depth', type=int, default=1, metavar='N', help='levels of submodules shown (default: 1)')
    parser.add_argument('--out', metavar='FILE.json', help='also write the counts of all modules to FILE.json')
    add_cfg_options(parser)
    parser.set_defaults(work_dir=None, launcher='none')
    return parser.parse_args(argv)


def count(model: torch.nn.Module, size: tuple[int, int]) -> MacReport:
    """`count_macs` on the meta device, which computes nothing, or on the CPU if the model needs values."""
    try:
        return count_macs(model.to('meta'), size)
    except RuntimeError:
        model = model.to_empty(device='cpu')
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.zero_()
        return count_macs(model, size)


def main(argv=None) -> MacReport:
    """Run the command line ``argv`` (default: ``sys.argv``); returns the report."""
    args = parse_args(argv)
    cfg = read_config(args)
    size = tuple(args.shape) if args.shape else image_size(cfg)
    model = build_model(cfg)
    if args.T is not None:
        mmsnn.set_time_steps(model, args.T)
    report = count(model, size)
    Console(width=None if Console().is_terminal else 140).print(report.table(args.depth))
    if args.out:
        Path(args.out).write_text(json.dumps(report.as_dict(), indent=1))
    return report


if __name__ == '__main__':
    run_main(main)
