"""Convert a checkpoint of another codebase into one that tools/test.py and the configs of mmsnn can load."""

import argparse
import os
from pathlib import Path

import torch

from mmsnn import __version__
from mmsnn.building import build_model
from mmsnn.checkpoints.conversion import ConversionReport, check_fit, convert_state
from mmsnn.checkpoints.layouts import LAYOUTS
from mmsnn.checkpoints.reading import load_state
from mmsnn.engine.cli import read_config
from mmsnn.engine.options import add_cfg_options
from mmsnn.refusals import run_main


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='layouts:\n' + '\n'.join(f'  {layout.name:<18}{layout.about}' for layout in LAYOUTS),
    )
    parser.add_argument(
        'source', help='a file, a URL, torchvision://NAME[.WEIGHTS], timm://NAME (needs timm), or mmpretrain://NAME'
    )
    parser.add_argument('out', type=Path, help='file to write')
    parser.add_argument('--config', help='check that the converted weights match the backbone of this config')
    parser.add_argument('--layout', choices=[layout.name for layout in LAYOUTS], help='layout, if it is not recognised')
    parser.add_argument('--key', help='entry of the file that contains the state dict, e.g. state_dict_ema')
    add_cfg_options(parser)
    parser.set_defaults(work_dir=None, launcher='none')
    args = parser.parse_args(argv)
    if args.out.is_dir():
        parser.error(f'{args.out} is a folder: give the name of a file')
    if args.out.exists() and Path(args.source).exists() and args.out.samefile(args.source):
        parser.error(f'{args.out} is the source, whose optimizer and position would be lost: give another name')
    return args


def main(argv=None) -> ConversionReport:
    """Run the command line ``argv`` (default: ``sys.argv``); returns the report. Nothing is written after an error."""
    args = parse_args(argv)
    state, report = convert_state(load_state(args.source, args.key), args.layout)
    if args.config:
        report.fit = check_fit(state, build_model(read_config(args)))
    print(report)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    part = args.out.with_name(f'.{args.out.name}.part')
    name = args.source if '://' in args.source else Path(args.source).name
    meta = dict(source=name, layout=report.layout.name, mmsnn_version=__version__)
    try:
        torch.save(dict(state_dict=state, meta=meta), part)
        os.replace(part, args.out)
    finally:
        part.unlink(missing_ok=True)
    print(f'written to {args.out}')
    return report


if __name__ == '__main__':
    run_main(main)
