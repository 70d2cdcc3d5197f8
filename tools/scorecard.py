"""Run the reliability scorecard and write its table of what was tried, what survived and what did not run.

Every row is a group of tests in ``tests/reliability``. Its verdict is "survived" only if at least the number of tries
given in this file were made and all of them survived. From a clone::

    python tools/scorecard.py                     # all rows, into docs/scorecard.md and docs/scorecard.json
    python tools/scorecard.py --rows R16 R24      # these rows; the others keep their results in the files

An interrupted run can so be continued row by row, and rows that need a GPU can be added on a machine that has one. Each
row of the JSON file names its commit and machine.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mmsnn.refusals import run_main
from mmsnn.shipped import commit

ROOT = Path(__file__).resolve().parents[1]
# what a row tests, and the number of tries that it needs
ROWS = {
    'R01': ('`opcheck` of every op', 24),
    'R02': ('faults planted in a copy of the ops are caught', 13),
    'R03': ('compiled kernels equal the reference', 120),
    'R04': ('gradients equal gradcheck and the reference', 24),
    'R05': ('memory that is not initialised holds NaN', 24),
    'R06': ('kernels on a GPU', 4),
    'R07': ('two trainings with the same seed are equal', 2),
    'R08': ('a forward pass leaves nothing behind', 40),
    'R09': ('time steps: any T, causality, tables worked out by hand', 24),
    'R10': ('copies, pickles and averages of a model, `torch.compile` after a backward pass', 40),
    'R11': ('gradients under activation checkpointing', 9),
    'R12': ('SyncBN where time is folded into the batch', 2),
    'R13': ('a resumed training equals the undisturbed one', 8),
    'R14': ('a checkpoint from the middle of an epoch', 1),
    'R15': ('trainings killed at random moments, inside a save, and by signals', 120),
    'R16': ('damaged checkpoints, full and read-only disks', 20),
    'R17': ('NaN and infinity in data, losses, gradients, weights and checkpoints', 15),
    'R18': ('checkpoints that try to run code or to take memory', 12),
    'R19': ('annotations, options and stray files that try to run code', 12),
    'R20': ('malformed annotations', 25),
    'R21': ('images that cannot be read', 10),
    'R22': ('a distillation leaves teacher, files and the plain training as they are', 7),
    'R23': ('training on two processes', 5),
    'R24': ('installations', 6),
    'R25': ('random arguments of the ops', 1000),
    'R26': ('5,000 steps without growth of memory', 1),
}
# The tests multiply their kills by this number; kills at random moments are three times as many.
TRIES = 34
# Files that take minutes start first, so that no core waits for them at the end.
LONGEST = ('test_planted_faults.py', 'test_memory.py', 'test_soak.py', 'test_kills.py', 'test_disks.py')


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--rows', nargs='+', choices=ROWS, metavar='ROW', help='run only these rows')
    parser.add_argument(
        '--out',
        type=Path,
        default=ROOT / 'docs' / 'scorecard.md',
        help='file of the table, with a .json file beside it (default: docs/scorecard.md)',
    )
    parser.add_argument('--workers', default='auto', help='test files that run at once; default: one per core')
    return parser.parse_args(argv)


def run(rows: list[str] | None, workers: str) -> dict:
    """Run the tests of the rows; returns their counts by row, as ``tests/support/rows.py`` writes them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'rows.json')
        environment = {
            **os.environ,
            'PYTHONPATH': os.pathsep.join(
                [str(ROOT), str(ROOT / 'tests' / 'support'), os.environ.get('PYTHONPATH', '')]
            ),
            'MMSNN_TRIES': str(TRIES),
            # the plugin deselects the tests of other rows
            'MMSNN_ROWS': ' '.join(rows or ROWS),
        }
        # replacing addopts includes the slow tests
        options = ['-o', 'addopts=--import-mode=importlib', '-q', '--no-header', '-p', 'rows', '--rows', str(path)]
        options += ['-W', 'ignore', '--tb', 'short']
        if workers != '0':
            options += ['-n', workers, '--dist', 'loadfile']
        folder = ROOT / 'tests' / 'reliability'
        places = [str(folder / name) for name in LONGEST if (folder / name).is_file()] + [str(folder)]
        command = [sys.executable, '-m', 'pytest', *options, *places]
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
        # exit code 1 means that tests failed, any other that they did not run
        if done.returncode not in (0, 1) or not path.is_file():
            raise SystemExit('pytest did not run the tests: see above')
        return json.loads(path.read_text())


def verdict(row: str, counts: dict | None) -> str:
    """The verdict on a row."""
    if not counts or not counts.get('tried'):
        return 'not run'
    if counts['survived'] < counts['tried']:
        return 'failed'
    wanted = ROWS[row][1]
    return 'survived' if counts['tried'] >= wanted else f'only {counts["tried"]} of {wanted} tried'


def table(counts: dict, rows: list[str]) -> list[str]:
    """The lines of a table in markdown."""
    lines = ['| row | what | wanted | tried | survived | skipped | |', '|---|---|---|---|---|---|---|']
    for row in rows:
        result = {**dict(tried=0, survived=0, skipped=[]), **counts.get(row, {})}
        what, wanted = ROWS[row]
        numbers = f'{wanted} | {result["tried"]} | {result["survived"]} | {len(result["skipped"])}'
        lines.append(f'| {row} | {what} | {numbers} | {verdict(row, result)} |')
    return lines


def merge(before: dict, counts: dict, asked: list[str], command: str, minutes: float) -> dict:
    """The record of all rows, with new results for the rows that were asked for.

    Args:
        before: the record in the JSON file, or an empty one.
        counts: the counts of the rows that ran.
        asked: the rows that were asked for.
        command: the command that ran them.
        minutes: the time that they took together.
    """
    where = f'{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}'
    now = dict(commit=commit(), machine=where, command=command, minutes=round(minutes, 1))
    rows = {}
    for row, (what, wanted) in ROWS.items():
        new, old = counts.get(row, {}), before.get('rows', {}).get(row, {})
        # if all tests of a row were skipped, for example without a GPU, results of another machine are kept
        skipped = new.get('skipped') and not new.get('tried') and old.get('tried')
        result = {**new, **now} if row in asked and not skipped else old
        rows[row] = {**result, 'what': what, 'wanted': wanted, 'verdict': verdict(row, result)}
    return dict(rows=rows)


def write(out: Path, record: dict) -> None:
    """Write the table and, beside it, the record as JSON."""
    rows = record['rows']
    verdicts = [result['verdict'] for result in rows.values()]
    ran = {row: result for row, result in rows.items() if result['verdict'] != 'not run'}
    reasons = {skip.rpartition(': ')[2] for result in rows.values() for skip in result.get('skipped', [])}
    runs: dict[tuple, list[str]] = {}
    for row, result in ran.items():
        key = tuple(result.get(name) for name in ('command', 'commit', 'machine', 'minutes'))
        runs.setdefault(key, []).append(row)
    lines = [
        '# Reliability scorecard',
        '',
        'Written by `python tools/scorecard.py`. A try survived if the fault was stopped with a message that names its '
        'cause, or if the result equals that of a run without the fault. The verdict on a row is "survived" if at '
        'least the wanted number of tries were made and all survived, and "not run" if none could be made.',
        '',
        *table(rows, list(ROWS)),
        '',
        f'{verdicts.count("survived")} of {len(ROWS)} rows survived, {verdicts.count("not run")} did not run.',
        '',
    ]
    for (command, revision, machine, minutes), names in runs.items():
        took = f', {minutes} minutes' if minutes else ''
        lines += [f'- `{command}`: {len(names)} rows, commit {revision}, {machine}{took}']
    if reasons:
        lines += ['', 'Tests were skipped because of: ' + '; '.join(sorted(reasons)) + '.']
    out.write_text('\n'.join(lines) + '\n')
    out.with_suffix('.json').write_text(json.dumps(record, indent=1) + '\n')


def main(argv=None) -> None:
    """Run the command line ``argv`` (default: ``sys.argv``); exit code 1 where a row that ran did not survive."""
    args = parse_args(argv)
    if not (ROOT / 'tests' / 'reliability').is_dir():
        raise SystemExit('the scorecard runs the tests of a clone of mmsnn, and there are none here: run it in a clone')
    start = time.monotonic()
    counts = run(args.rows, args.workers)
    rows = args.rows or list(ROWS)
    print('\n'.join(table(counts, rows)))
    for row in rows:
        for test in counts.get(row, {}).get('failed', []):
            print(f'{row} failed: {test}')
    path = args.out.with_suffix('.json')
    before = json.loads(path.read_text()) if path.is_file() else {}
    command = ' '.join(['python tools/scorecard.py', *(['--rows', *args.rows] if args.rows else [])])
    write(args.out, merge(before, counts, rows, command, (time.monotonic() - start) / 60))
    raise SystemExit(any(verdict(row, counts.get(row)) not in ('survived', 'not run') for row in rows))


if __name__ == '__main__':
    run_main(main)
