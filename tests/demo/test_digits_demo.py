import importlib
import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def demo(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'demo'))
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module('digits_demo')
    module.DATA.mkdir(parents=True)
    (module.DATA / 'stamp.json').write_text('{}')
    return module


@pytest.fixture
def tools(demo, monkeypatch):
    """Tools that only write down that they ran, and their result."""
    ran = []

    def run_tool(tool, arguments, folder, show):
        show(1.0)
        ran.append((folder.name, tool))
        if tool == 'train':
            epochs = next(a for a in arguments if 'max_epochs' in str(a)).split('=')[1]
            (folder / f'epoch_{epochs}.pth').write_bytes(b'')
        else:
            (folder / 'benchmark.json').write_text(json.dumps(result('')))

    monkeypatch.setattr(demo, 'run_tool', run_tool)
    return ran


def result(kind, metric=0.5, T=4, rates=True):
    layers = [dict(name='backbone.conv1', energy_uj=10.0), dict(name='neck.conv', energy_uj=90.0)]
    return dict(
        kind=kind,
        epochs=4,
        metrics={'coco/bbox_mAP': metric, 'coco/bbox_mAP_50': metric},
        energy=dict(T=T, energy_uj=100.0, layers=layers),
        firing_rates=dict(a=0.1, b=0.3) if rates else {},
        images_per_second=12.3,
        device='CPU, 2 threads',
        batch_size=16,
    )


def run(demo, *options):
    models = demo.plan(demo.parse_args(options))
    clock = demo.Clock([1.0] * 2 * len(models))
    for model in models:
        demo.train(model, clock)
        demo.test(model, clock)


def test_it_says_what_it_waits_for(demo, tools, capsys, monkeypatch):
    seconds = iter(range(0, 1000, 10))
    monkeypatch.setattr(demo.time, 'monotonic', lambda: next(seconds))
    run(demo)
    lines = capsys.readouterr().out.splitlines()
    # before a tool has loaded its libraries
    assert lines[0].startswith('training the ANN teacher:   0%, about')
    assert any(line.startswith('testing the undistilled SNN:   0%') for line in lines)


def test_both_students_have_the_same_budget_and_one_teacher(demo):
    models = demo.plan(demo.parse_args(['--seeds', '2', '--epochs', '3']))
    assert [m.kind for m in models] == ['ann', 'snn', 'sakd', 'snn', 'sakd']
    assert {m.epochs for m in models[1:]} == {3}
    assert all(m.teacher is (models[0] if m.kind == 'sakd' else None) for m in models)
    assert len({m.folder for m in models}) == 5


def test_what_is_finished_is_skipped(demo, tools):
    run(demo)
    assert tools == [(kind, tool) for kind in ('ann', 'snn', 'sakd') for tool in ('train', 'test')]
    tools.clear()
    run(demo)
    assert not tools


def test_other_settings_train_again_and_so_does_what_depends_on_them(demo, tools):
    run(demo)
    tools.clear()
    run(demo, '--teacher-epochs', '5')
    assert tools == [(kind, tool) for kind in ('ann', 'sakd') for tool in ('train', 'test')]
    tools.clear()
    (demo.DATA / 'stamp.json').write_text('{"seed": 1}')
    run(demo, '--teacher-epochs', '5')
    assert len(tools) == 6


def test_interrupted_training_is_resumed(demo, tools):
    run(demo)
    model = demo.plan(demo.parse_args([]))[1]
    model.checkpoint.rename(model.folder / 'epoch_2.pth')
    tools.clear()
    run(demo)
    assert tools[0] == ('snn', 'train')
    assert (model.folder / 'epoch_2.pth').exists()


def write_tool(demo, monkeypatch, tmp_path, code):
    monkeypatch.setattr(demo, 'ROOT', tmp_path)
    (tmp_path / 'tools').mkdir()
    (tmp_path / 'tools/train.py').write_text(code)


def test_a_tool_that_fails_shows_its_last_lines(demo, monkeypatch, tmp_path):
    write_tool(demo, monkeypatch, tmp_path, "raise ValueError('no such teacher')")
    with pytest.raises(SystemExit, match=r'(?s)no such teacher.*train\.log'):
        demo.run_tool('train', [], tmp_path, lambda part: None)


def test_progress_is_read_from_the_log(demo, monkeypatch, tmp_path):
    line = '11/21 09:45:30 - mmengine - INFO - Epoch(train) [4][ 75/150]  lr: 7.4455e-04'
    write_tool(demo, monkeypatch, tmp_path, f'print({line!r})')
    seen = []
    demo.run_tool('train', [], tmp_path, seen.append)
    assert seen == [3.5]
    assert line in (tmp_path / 'train.log').read_text()


def test_table_gives_mean_and_spread(demo):
    report = importlib.import_module('digits_report')
    results = [result('ann', T=1, rates=False), result('snn', 0.2), result('sakd', 0.4), result('snn', 0.3)]
    ann, snn, sakd = report.table_rows([*results, result('sakd', 0.4)])
    assert ann[1:5] == ['0.500', '0.500', '–', '–']
    assert snn[1:6] == ['0.250 ± 0.071', '0.250 ± 0.071', '4', '0.200 ± 0.000', '100 ± 0 µJ']
    assert sakd[-2:] == ['10 ± 0 µJ', '12']


def test_report_has_the_table(demo, tmp_path):
    report = importlib.import_module('digits_report')
    report.write_report([result('ann', rates=False), result('snn'), result('sakd')], 1200, tmp_path / 'report.md')
    assert '| SNN, undistilled | 0.500 | 0.500 | 4 | 0.200 |' in (tmp_path / 'report.md').read_text(encoding='utf-8')


def test_each_digit_is_found_once(demo):
    report = importlib.import_module('digits_report')
    truth = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32)
    boxes = np.array([[0, 0, 10, 10], [1, 0, 10, 10], [20, 20, 30, 30], [24, 20, 40, 30]], np.float32)
    right, found = report.judge(boxes, np.array([1, 1, 7, 2]), truth, np.array([1, 2]))
    assert right.tolist() == [True, False, False, False]
    assert found.tolist() == [True, False]
    right, found = report.judge(boxes[:0], np.array([], int), truth, np.array([1, 2]))
    assert not right.size and not found.any()
