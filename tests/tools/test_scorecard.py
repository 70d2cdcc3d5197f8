"""The scorecard counts what was tried, and no row reads "survived" without it."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = '''
"""R01: a file of one row."""
import pytest

def test_one(): pass

def test_many(record_property): record_property('tries', 40)

@pytest.mark.row('R02')
def test_fails(record_property):
    record_property('tries', 5)
    record_property('survived', 5)
    assert False

@pytest.mark.row('R03')
@pytest.mark.skip(reason='no GPU')
def test_skipped(): pass

@pytest.mark.row('R04')
def test_setup(nothing): pass
'''


@pytest.fixture(scope='module')
def card():
    return runpy.run_path(str(ROOT / 'tools' / 'scorecard.py'))


@pytest.mark.parametrize('workers', ['0', '1'])
def test_counts(tmp_path, workers):
    (tmp_path / 'test_it.py').write_text(TESTS)
    parallel = ['-n', workers] if workers != '0' else []
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'rows', '--rows', 'rows.json', '-c', '/dev/null']
    subprocess.run(
        [*command, *parallel, f'--rootdir={tmp_path}', 'test_it.py'],
        cwd=tmp_path,
        env={'PATH': '', 'PYTHONPATH': str(ROOT / 'tests' / 'support')},
        capture_output=True,
    )
    rows = json.loads((tmp_path / 'rows.json').read_text())
    numbers = {name: (row['tried'], row['survived'], len(row['skipped'])) for name, row in rows.items()}
    # a failure counts as one at least, whatever it says of itself
    assert numbers == {'R01': (41, 41, 0), 'R02': (5, 4, 0), 'R03': (0, 0, 1), 'R04': (1, 0, 0)}


@pytest.mark.parametrize(
    'counts, reads',
    [
        (None, 'not run'),
        (dict(tried=0, survived=0), 'not run'),
        (dict(tried=19, survived=19), 'only 19 of 20 tried'),
        (dict(tried=30, survived=29), 'failed'),
        (dict(tried=20, survived=20), 'survived'),
    ],
)
def test_verdicts(card, counts, reads):
    assert card['verdict']('R16', counts) == reads


def test_files(card, tmp_path):
    counts = {'R16': dict(tried=20, survived=20, skipped=['a::b: needs root'], failed=[], seconds=1.0)}
    card['write'](tmp_path / 'card.md', counts, 3.0)
    text = (tmp_path / 'card.md').read_text()
    assert '| R16 |' in text and 'needs root' in text and '| R06 | kernels on a GPU | 4 | 0 | 0 | 0 | not run |' in text
    record = json.loads((tmp_path / 'card.json').read_text())
    assert record['rows']['R16']['verdict'] == 'survived' and record['rows']['R01']['verdict'] == 'not run'


def test_every_reliability_test_has_a_row(card):
    """By its marker, or by the docstring of its file."""
    rows = runpy.run_path(str(ROOT / 'tests' / 'support' / 'rows.py'))
    for path in (ROOT / 'tests' / 'reliability').glob('test_*.py'):
        # of no row: what other libraries change
        if path.stem == 'test_private_names':
            continue
        text = path.read_text()
        assert 'pytest.mark.row(' in text or text[3:6] in card['ROWS'] and text[6] == ':', path
    assert rows['row_of']
