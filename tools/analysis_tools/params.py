"""Count the parameters of a config's model by module; for distillation configs, count teacher and connectors, too."""

import argparse
import json
from pathlib import Path

from rich.console import Console

from mmsnn.analysis import count_parameters
from mmsnn.analysis.parameters import ParameterReport
from mmsnn.building import build_model
from mmsnn.engine.cli import read_config
from mmsnn.engine.options import add_cfg_options
from mmsnn.refusals import run_main


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or mmsnn::PATH')
    parser.add_argument('--depth', type=int, default=1, metavar='N', help='levels of submodules shown (default: 1)')
    parser.add_argument('--out', metavar='FILE.json', help='also write the counts of all modules to FILE.json')
    add_cfg_options(parser)
    parser.set_defaults(work_dir=None, launcher='none')
    return parser.parse_args(argv)


def main(argv=None) -> ParameterReport:
    """Run the command line ``argv`` (default: ``sys.argv``); returns the report."""
    args = parse_args(argv)
    report = count_parameters(build_model(read_config(args), student=False))
    Console(width=None if Console().is_terminal else 140).print(report.table(args.depth))
    if args.out:
        Path(args.out).write_text(json.dumps(report.as_dict(), indent=1))
    return report


if __name__ == '__main__':
    run_main(main)
