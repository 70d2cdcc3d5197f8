"""Check a config before training, and list all faults: data, classes, heads, teacher, weights, precision, memory."""

import argparse
import sys
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

import mmsnn  # noqa: F401  imported first, because it supplies mmcv's compiled ops where they are missing
from mmsnn.engine import checks
from mmsnn.engine.checks.findings import number
from mmsnn.engine.checks.running import Trial, check_loaders
from mmsnn.engine.cli import add_arguments, build_runner, read_config
from mmsnn.refusals import run_main

STYLES = {
    checks.ERROR: ('error', 'bold red'),
    checks.WARNING: ('warning', 'yellow'),
    checks.NOTE: ('ok', 'green'),
    checks.UNCHECKED: ('not checked', 'cyan'),
}


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or mmsnn::PATH for one that comes with mmsnn')
    add_arguments(parser)
    parser.add_argument(
        '--quick', action='store_true', help='check only config and files, as train.py does, without building the model'
    )
    parser.add_argument(
        '--all', action='store_true', help='read every file of the datasets, by their num_workers processes'
    )
    return parser.parse_args(argv)


class Report:
    """Prints and counts findings; the same finding about several keys is printed on one line."""

    def __init__(self):
        self.console = Console()
        self.found: list[checks.Finding] = []

    def section(self, title: str, findings: Iterable[checks.Finding], without: str = 'nothing to report') -> None:
        """Print findings under a heading; ``without`` any, another line."""
        self.console.print(Text(title, style='bold'))
        new, known = {}, {(finding.key, finding.text) for finding in self.found}
        for finding in findings:
            if (finding.key, finding.text) not in known:
                self.found.append(finding)
                new.setdefault((finding.level, finding.text), []).append(finding.key)
        for (level, text), keys in new.items():
            word, style = STYLES[level]
            line = Text.assemble((f'  {word:<12}', style), f'{", ".join(dict.fromkeys(keys))}: {text}')
            self.console.print(line, soft_wrap=True)
        if not new:
            self.console.print(f'  {without}')

    @property
    def errors(self) -> int:
        """Number of different errors."""
        return len({finding.text for finding in self.found if finding.level == checks.ERROR})

    def summary(self) -> None:
        """Print the last line, with the numbers of errors and warnings."""
        warnings = len({finding.text for finding in self.found if finding.level == checks.WARNING})
        text = f'{number(self.errors, "error")}, {number(warnings, "warning")}'
        self.console.print(Text(text, style='bold'))


def main(argv=None) -> int:
    """Run the command line ``argv`` (default: ``sys.argv``); returns 1 where there are errors, else 0."""
    args = parse_args(argv)
    cfg = read_config(args)
    report = Report()
    report.section('Data, classes, heads, teachers, precision', checks.check_config(cfg, every=args.all))
    if args.all:
        known = [finding.key for finding in report.found if finding.level == checks.ERROR]
        report.section('Every file', checks.check_files(cfg, known))
    report.section('Processes that load data', check_loaders(cfg))
    if args.quick:
        report.summary()
        return int(report.errors > 0)
    known = [finding.key for finding in report.found if finding.level == checks.ERROR]
    # building a dataset without its files fails, but that error has been printed already
    trial = (found for found in Trial(cfg, build_runner).run() if not any(_is_about(key, found.key) for key in known))
    without = 'not done: errors above stand in the way' if known else 'nothing to report'
    report.section('Building, one step, one prediction', trial, without)
    report.summary()
    return int(report.errors > 0)


def _is_about(known: str, key: str) -> bool:
    """Whether an error at ``known`` already explains one at ``key``."""
    return known == key or ('dataloader' in key and known.startswith(f'{key}.'))


if __name__ == '__main__':
    sys.exit(run_main(main))
