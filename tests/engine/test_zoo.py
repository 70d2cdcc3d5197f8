"""Configs of the libraries with mmsnn put into them; the whole zoo is walked by ``pytest -m slow``."""

import importlib
import json
import runpy
from pathlib import Path

import pytest
import torch

from mmsnn.engine import zoo

ROOT = Path(__file__).parents[2]
FAMILIES = [
    ('mmdet/retinanet/retinanet_r18_fpn_1x_coco.py', 'sew'),
    # a ResNetV1c, whose stem is kept
    ('mmseg/fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py', 'sew'),
    # a neck that takes the last map alone
    ('mmpretrain/simsiam/simsiam_resnet50_8xb32-coslr-100e_in1k.py', 'sew'),
    ('mmseg/erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024.py', 'spikify'),
    ('mmpretrain/resnet/resnet18_8xb32_in1k.py', 'distill'),
]


@pytest.fixture(scope='module', autouse=True)
def libraries():
    for library in zoo.LIBRARIES:
        importlib.import_module(f'{library}.models')


def tool():
    return runpy.run_path(str(ROOT / 'tools' / 'zoo.py'))


@pytest.mark.parametrize('config, kind', FAMILIES)
def test_trains_and_predicts(config, kind):
    found = zoo.trial(config, kind, 64)
    assert found['ok'], found['reason']
    assert found['neurons'] >= 9 and 0 <= found['silent'] <= found['neurons']
    if kind == 'distill':
        assert found['terms'] == ('transfer', 'feature', 'response') and not found['refused']


class TestTrial:
    def test_reason_of_a_failure(self):
        found = zoo.trial('mmpretrain/lenet/lenet5_mnist.py', 'spikify', 32)
        assert not found['ok'] and 'LeNet5 has no activation module that could spike' in found['reason']

    def test_smallest_size_that_serves(self, monkeypatch):
        def attempt(config, kind, size, terms, tap):
            if size < 256:
                raise RuntimeError('too small')
            return dict(size=size)

        monkeypatch.setattr(zoo, 'attempt', attempt)
        assert zoo.trial('mmdet/a/b.py', 'ann', None)['size'] == 256
        assert zoo.trial('mmdet/a/b.py', 'sew', 64)['reason'] == 'RuntimeError: too small'

    @pytest.mark.parametrize('kind, sizes', [(KeyError, [64, 256]), (RuntimeError, [64, 256, 512])])
    def test_no_further_size_where_it_is_not_the_size(self, kind, sizes, monkeypatch):
        tried = []

        def attempt(config, kind_, size, terms, tap):
            tried.append(size)
            raise kind('no such op')

        monkeypatch.setattr(zoo, 'attempt', attempt)
        assert not zoo.trial('mmdet/a/b.py', 'ann', None)['ok'] and tried == sizes

    def test_terms_that_do_not_go_are_left_out(self, monkeypatch):
        def attempt(config, kind, size, terms, tap):
            if 'response' in terms:
                raise ValueError('model.losses.loss_response: no')
            return dict(size=size)

        monkeypatch.setattr(zoo, 'attempt', attempt)
        found = zoo.trial('mmdet/a/b.py', 'distill', 64)
        assert found['ok'] and found['terms'] == ('transfer', 'feature')
        assert found['refused'] == ['response: ValueError: model.losses.loss_response: no']

    def test_a_tap_that_a_message_names_is_taken(self, monkeypatch):
        def attempt(config, kind, size, terms, tap):
            if tap == 'backbone':
                raise ValueError("student tap backbone gives ['Tensor', 'list'], not tensors: as in 'backbone[1]'")
            return dict(size=size)

        monkeypatch.setattr(zoo, 'attempt', attempt)
        found = zoo.trial('mmdet/a/b.py', 'distill', 64)
        assert found['ok'] and found['tap'] == 'backbone[1]' and not found['refused']

    def test_images_that_are_mixed_are_found(self):
        class Mixing(torch.nn.Module):
            backbone = None

            def extract_feat(self, x):
                return (x + x.mean(0),)

        with pytest.raises(RuntimeError, match='one image of a batch changes the features of the others'):
            zoo.check_independence(Mixing(), 8)


class TestTool:
    def test_walks_resumes_and_writes_the_table(self, tmp_path, capsys):
        out, table = tmp_path / 'zoo.json', tmp_path / 'zoo.md'
        argv = ['--only', 'mmseg/erfnet', 'mmpretrain/lenet', '--kinds', 'ann', 'spikify', '--out', str(out)]
        main = tool()['main']
        main([*argv, '--table', str(table)])
        said = capsys.readouterr().out
        assert 'ANN: 2 of 2 folders' in said and 'Spikify: 1 of 2 types of backbone whose ANN runs' in said
        saved = json.loads(out.read_text())
        erfnet = 'mmseg/erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024.py'
        assert saved['results'][erfnet]['spikify']['ok'] and saved['versions']['torch']
        text = table.read_text()
        assert '| mmseg/erfnet | erfnet_fcn_4xb4-160k_cityscapes-512x1024.py | yes |' in text
        assert 'LeNet5 has no activation module that could spike' in text.partition('## Spikify: why not')[2]
        assert (
            'distilled: 0 of 0 of these; 2 not tried yet' in said
            and 'results may stem from several commits: 4 from ' in text
        )
        main([*argv, '--kinds', 'ann', '--table', str(table)])
        # what is there is not tried again
        assert 'erfnet' not in capsys.readouterr().out
        del saved['results'][erfnet]['spikify']
        out.write_text(json.dumps(saved))
        main([*argv, '--kinds', 'ann'])
        assert 'Spikify: 0 of 1 types of backbone whose ANN runs; 1 not tried yet' in capsys.readouterr().out

    def test_limits(self):
        isolated = tool()['isolated']
        assert isolated(sum, [1, 2], timeout=5, memory=4) == (3, 0)
        answer, code = isolated(bytearray, 10 * 2**30, timeout=5, memory=4)
        assert answer is None and code != 0
        answer, code = isolated(_spin, timeout=1, memory=4)
        assert answer is None and code < 0


def _spin():
    while True:
        pass


@pytest.mark.slow
def test_whole_zoo(tmp_path):
    """Three quarters of an hour on two idle cores."""
    namespace = tool()
    args = namespace['parse_args'](['--out', str(tmp_path / 'zoo.json')])
    walk = namespace['Walk'](args)
    walk.go()
    assert walk.share('sew') >= 0.95 and walk.share('spikify') >= 0.9 and walk.share('distill') >= 0.9
