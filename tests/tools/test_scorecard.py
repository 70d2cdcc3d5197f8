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


def row(tried: int, survived: int) -> dict:
    return dict(tried=tried, survived=survived, skipped=['a::b: needs root'], failed=[], seconds=1.0)


def test_rows_keep_what_ran_before(card, tmp_path):
    """Rows are run one after the other, on different machines and commits; a row that failed later reads so."""
    out, path = tmp_path / 'card.md', tmp_path / 'card.json'

    def add(counts, *asked):
        before = json.loads(path.read_text()) if path.is_file() else {}
        card['write'](out, card['merge'](before, counts, asked, f'run {" ".join(asked)}', 3.04))
        return json.loads(path.read_text())['rows'], out.read_text()

    rows, text = add({'R16': row(20, 20)}, 'R16')
    assert '| R16 |' in text and 'needs root' in text and '| R06 | kernels on a GPU | 4 | 0 | 0 | 0 | not run |' in text
    assert rows['R16']['verdict'] == 'survived' and rows['R01']['verdict'] == 'not run'
    rows, text = add({'R24': row(6, 6)}, 'R24', 'R06')
    assert [rows[name]['verdict'] for name in ('R16', 'R24', 'R06')] == ['survived', 'survived', 'not run']
    assert '2 of 26 rows survived' in text and '- `run R16`: 1 rows' in text and '- `run R24 R06`: 1 rows' in text
    assert rows['R16']['commit'] and rows['R24']['minutes'] == 3.0
    rows, text = add({'R16': row(20, 19)}, 'R16')
    assert rows['R16']['verdict'] == 'failed' and '1 of 26 rows survived' in text
    # A row that is skipped here keeps what another machine tried.
    rows, _ = add({'R24': row(0, 0)}, 'R24')
    assert (rows['R24']['verdict'], rows['R24']['tried']) == ('survived', 6)
    # A row whose tests are gone keeps nothing of what it was.
    rows, _ = add({}, 'R24')
    assert rows['R24']['verdict'] == 'not run'


def test_nothing_is_written_where_pytest_does_not_run_the_tests(card, tmp_path, monkeypatch):
    """An import that fails, say, ends the collection; the record stays."""
    broken = tmp_path / 'tests' / 'reliability'
    broken.mkdir(parents=True)
    (broken / 'test_it.py').write_text('import nothing_of_that_name')
    monkeypatch.setitem(card['run'].__globals__, 'ROOT', tmp_path)
    monkeypatch.setenv('PYTHONPATH', str(ROOT / 'tests' / 'support'))
    out = tmp_path / 'card.md'
    with pytest.raises(SystemExit, match='pytest did not run the tests'):
        card['main'](['--out', str(out), '--workers', '0'])
    assert not out.exists() and not out.with_suffix('.json').exists()


def test_the_table_in_the_docs_is_what_the_record_says(card, tmp_path):
    record = json.loads((ROOT / 'docs' / 'scorecard.json').read_text())
    text = (ROOT / 'docs' / 'scorecard.md').read_text()
    for line in card['table'](record['rows'], list(card['ROWS'])):
        assert line in text


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
