"""Check a config before training: data, classes, heads, teacher, weights, memory; all that is wrong at once."""

import argparse
import sys
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

import mmsnn  # noqa: F401  first: it supplies mmcv's compiled ops where they are missing
from mmsnn.engine import checks
from mmsnn.engine.checks.findings import number
from mmsnn.engine.checks.running import Trial, check_loaders
from mmsnn.engine.cli import add_arguments, build_runner, read_config

STYLES = {
    checks.ERROR: ('error', 'bold red'),
    checks.WARNING: ('warning', 'yellow'),
    checks.NOTE: ('ok', 'green'),
    checks.UNCHECKED: ('not checked', 'cyan'),
}


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or mmsnn::PATH for one that came with mmsnn')
    add_arguments(parser)
    parser.add_argument(
        '--quick', action='store_true', help='build nothing: only what the config and the files tell, as train.py does'
    )
    return parser.parse_args(argv)


class Report:
    """Prints findings as they come, and counts them; what holds for several keys is one line."""

    def __init__(self):
        self.console = Console()
        self.found: list[checks.Finding] = []

    def section(self, title: str, findings: Iterable[checks.Finding]) -> None:
        """Print findings under a heading."""
        self.console.print(Text(title, style='bold'))
        said, known = {}, {(one.key, one.text) for one in self.found}
        for finding in findings:
            if (finding.key, finding.text) not in known:
                self.found.append(finding)
                said.setdefault((finding.level, finding.text), []).append(finding.key)
        for (level, text), keys in said.items():
            word, style = STYLES[level]
            line = Text.assemble((f'  {word:<12}', style), f'{", ".join(dict.fromkeys(keys))}: {text}')
            self.console.print(line, soft_wrap=True)
        if not said:
            self.console.print('  nothing to say')

    @property
    def errors(self) -> int:
        return len({finding.text for finding in self.found if finding.level == checks.ERROR})

    def summary(self) -> None:
        """The last line."""
        warnings = len({finding.text for finding in self.found if finding.level == checks.WARNING})
        text = f'{number(self.errors, "error")}, {number(warnings, "warning")}'
        self.console.print(Text(text, style='bold'))


def main(argv=None) -> int:
    """Run the command line ``argv`` (default: ``sys.argv``); returns 1 where there are errors, else 0."""
    args = parse_args(argv)
    cfg = read_config(args)
    report = Report()
    report.section('Data, classes, heads, teachers, precision', checks.check_config(cfg))
    report.section('Processes that load data', check_loaders(cfg))
    if args.quick:
        report.summary()
        return int(report.errors > 0)
    known = [finding.key for finding in report.found if finding.level == checks.ERROR]
    # a dataset without its files cannot be built, which need not be said again
    trial = (one for one in Trial(cfg, build_runner).run() if not any(_is_about(key, one.key) for key in known))
    report.section('Building, one step, one prediction', trial)
    report.summary()
    return int(report.errors > 0)


def _is_about(known: str, key: str) -> bool:
    """Whether an error at ``known`` tells already what goes wrong at ``key``."""
    return known == key or ('dataloader' in key and known.startswith(f'{key}.'))


if __name__ == '__main__':
    sys.exit(main())
