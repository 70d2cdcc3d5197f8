"""The table of the small-data runs, from logs written by the test."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'tools/benchmarks/small_data.py'


@pytest.fixture(scope='module')
def small_data():
    spec = importlib.util.spec_from_file_location('small_data', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(run, curve, finished=True):
    log = run.folder / '20260101_000000/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    lines = [{'loss': 1.0, 'step': 1}, *({'coco/bbox_mAP': v, 'step': e} for e, v in curve.items())]
    log.write_text('\n'.join(map(json.dumps, lines)))
    if finished:
        (run.folder / 'finished').touch()


def test_summary_and_table(small_data, tmp_path):
    runs = small_data.plan('bccd', 2, ['undistilled', 'level 1', 'both'], tmp_path)
    assert runs['level 1'][1].options[1:] == ['model.losses=None'] and runs['level 1'][1].seed == 1
    assert runs['both'][0].config.parent.name == 'sakd' and runs['undistilled'][0].options == []
    write(runs['teacher'][0], {10: 0.5})
    for run, last in zip(runs['undistilled'], (0.2, 0.4), strict=True):
        write(run, {2: 0.1, 4: last})
    for run, first in zip(runs['level 1'], (0.31, 0.29), strict=True):
        write(run, {2: first, 4: 0.45})
    write(runs['both'][0], {2: 0.4}, finished=False)
    result = small_data.summary('bccd', runs)
    assert result['final'] == {'teacher': [50.0], 'undistilled': [20.0, 40.0], 'level 1': [45.0, 45.0], 'both': []}
    assert result['gap_closed'] == {'level 1': 0.75}
    assert result['first_epoch_at_undistilled'] == {'level 1': [2, 4]}
    text = small_data.table([result])
    assert '| bccd | undistilled | 4 | 20.0, 40.0 | 30.0 +- 14.1 |' in text
    assert '| bccd | level 1 | 4 | 45.0, 45.0 | 45.0 +- 0.0 | 75% | 2, 4 |' in text
    assert 'both' not in text


def test_unknown_task_is_named(small_data, capsys):
    with pytest.raises(SystemExit):
        small_data.main(['nothing'])
    assert 'unknown tasks nothing' in capsys.readouterr().err
