"""The search of level 2's form, with trainings that only write the figure they would end with."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

pytest.importorskip('optuna', reason='needs the extra search')
FOLDER = Path(__file__).parents[2] / 'tools/benchmarks'


@pytest.fixture
def level2(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location('level2', FOLDER / 'level2.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop('trainings', None)


@pytest.fixture
def trained(level2, monkeypatch):
    """The folders of all trainings, in their order. Stages with PKD are best at twice their weight, boxes come next."""
    folders = []

    def train(self, threads):
        folders.append(f'{self.folder.parent.name}/{self.folder.name}')
        losses = Config.fromfile(self.config).model.get('losses') or {}
        value = 0.4
        for term in losses.values():
            if term.type == 'PKD' and term.student != 'neck':
                value = 0.5 - 0.01 * abs(term.weight - 2) if isinstance(term.weight, float) else 0.3
            if term.type == 'BoxResponse':
                value = 0.45
        log = self.folder / '20260101_000000/vis_data/scalars.json'
        log.parent.mkdir(parents=True)
        log.write_text(json.dumps({'coco/bbox_mAP': value + 0.002 * self.seed, 'step': self.epochs}) + '\n')
        (self.folder / 'finished').touch()

    monkeypatch.setattr(level2.trainings.Run, 'train', train)
    return folders


def test_search(level2, trained, tmp_path, capsys):
    out = tmp_path / 'out.json'
    argv = ['bccd', '--trials', '14', '--best', '2', '--seeds', '2', '--jobs', '1', '--epochs', '6', '--T', '1']
    argv += ['--work-dir', str(tmp_path / 'work'), '--out', str(out)]
    level2.main(argv)
    result = json.loads(out.read_text())
    forms = level2.FORMS['bccd']
    assert trained[0] == 'bccd/teacher' and len(result['trials']) == 14
    # first every form at its own weight
    assert [name.split('_1_kept')[0] for name in trained[1 : len(forms) + 1]] == [
        form.replace(', ', '_').replace(' ', '') for form in forms
    ]
    values = [row[0] for row in result['trials']]
    assert values == sorted(values, reverse=True) and result['trials'][0][1] == 'stages, PKD'
    # level 1 alone, the default and the best weight of the best two forms, with the search's seed and two others
    alone, default, first, second = result['confirmed']
    assert (alone, default) == (level2.ALONE, 'default')
    assert first.startswith('stages, PKD x') and 'boxes' in second
    assert result['confirmed'][alone] == [40.0, 40.2, 40.4] and len(result['confirmed'][first]) == 3
    assert out.with_suffix('.png').stat().st_size > 10_000
    assert '| level 1 alone | 40.0 | 40.2, 40.4 | 40.3 +- 0.1 |' in capsys.readouterr().out
    assert result['command'].startswith('python tools/benchmarks/level2.py bccd --trials 14') and result['T'] == 1
    # the same command trains nothing again
    trained.clear()
    level2.main(argv)
    assert not trained and json.loads(out.read_text())['confirmed'] == result['confirmed']


def test_interrupted(level2, trained, tmp_path, monkeypatch):
    """A trial that was cut off is trained after all."""
    whole = level2.trainings.Run.train

    def stop(self, threads):
        if len(trained) == 3:
            raise KeyboardInterrupt
        whole(self, threads)

    argv = [
        'bccd',
        '--forms',
        'stages',
        'stages, PKD',
        'boxes',
        'classes',
        '--trials',
        '4',
        '--best',
        '0',
        '--seeds',
        '0',
        '--jobs',
        '1',
        '--work-dir',
        str(tmp_path),
    ]
    monkeypatch.setattr(level2.trainings.Run, 'train', stop)
    with pytest.raises(KeyboardInterrupt):
        level2.main(argv)
    monkeypatch.setattr(level2.trainings.Run, 'train', whole)
    level2.main(argv)
    names = [folder.split('/')[0] for folder in trained[1:]]
    assert names == [f'{form}_1_kept' for form in ('stages', 'stages_PKD', 'classes', 'boxes')] + [
        'level1alone',
        'default',
    ]


@pytest.mark.parametrize('task', ['bccd', 'penn_fudan', 'penn_fudan_masks', 'camvid'])
def test_configs(level2, task, tmp_path):
    """A trial's config has level 1, and the terms of its form instead of the default's."""
    search = level2.Search(task, tmp_path, 10, 2, 1, list(level2.FORMS[task]))
    for form in level2.FORMS[task]:
        for schedule in level2.SCHEDULES:
            run = search.run(form, 0.5, schedule, 3)
            cfg = Config.fromfile(run.config)
            assert cfg.model.transfer and run.seed == 3 and 'model.student.backbone.T=2' in run.options
            terms = level2.FORMS[task][form]
            assert [t.type for t in cfg.model.losses.values()] == [t['type'] for t in terms]
            for found, term in zip(cfg.model.losses.values(), terms):
                weight = found.weight if schedule == 'kept' else found.weight['values'][0]
                assert weight == pytest.approx(0.5 * term['weight'])
                assert schedule == 'kept' or found.weight.milestones == [0, 5]
    assert Config.fromfile(search.run(level2.ALONE, 1.0, 'kept', 0).config).model.losses == {}
    assert search.run('default', 1.0, 'kept', 0).config == search.base
