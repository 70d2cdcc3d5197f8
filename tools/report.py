"""Write the report of trainings and tests: one HTML file for one work dir, or several side by side."""

import argparse
from pathlib import Path

from mmsnn.refusals import run_main


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dirs', nargs='+', type=Path, metavar='WORK_DIR', help='of a training or a test')
    parser.add_argument(
        '--out',
        type=Path,
        metavar='FILE',
        help='default: report.html in the work dir; for several, comparison.html in the first',
    )
    args = parser.parse_args(argv)
    if args.out and args.out.suffix not in ('.html', '.htm'):
        parser.error(f'--out: the file must end with .html, got {str(args.out)!r}')
    return args


def main(argv=None) -> Path:
    """Run the command line ``argv`` (default: ``sys.argv``); returns the path of the file."""
    args = parse_args(argv)
    # not before the command line is read: it takes seconds
    from mmsnn.report import write_report

    try:
        # a comparison does not take the place of the report of one of them
        out = args.out or (args.work_dirs[0] / 'comparison.html' if len(args.work_dirs) > 1 else None)
        path = write_report(args.work_dirs, out)
    except (OSError, ImportError, ValueError) as error:
        raise SystemExit(str(error)) from error
    print(f'saved {path}')
    return path


if __name__ == '__main__':
    run_main(main)
