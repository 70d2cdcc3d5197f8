"""What large trainings use: FSDP, accumulated gradients, mixed precision, channels last, torch.compile; on the CPU."""

import json
import runpy
from functools import partial
from pathlib import Path

import pytest
import ranks
import torch
from mmengine.hooks import Hook
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope
from tiny import classifier, runner
from torch import nn

from mmsnn.checkpoints.reading import load_file
from mmsnn.models import SEWResNet
from mmsnn.neurons import Neuron

ROOT = Path(__file__).parents[2]
STAGE = 'backbone.layer1'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('ranks')


@pytest.fixture(scope='module')
def both(folder):
    return ranks.run(ranks.shard, folder)


class TestFSDP:
    def test_each_rank_holds_its_share(self, both):
        whole = both[0]['whole']
        assert whole <= both[0]['part'] + both[1]['part'] < 1.01 * whole
        assert max(half['part'] for half in both) < 0.51 * whole

    @pytest.mark.parametrize('run', ['fsdp', 'resumed'])
    def test_trains_and_resumes_as_ddp_does(self, both, folder, run):
        """Student, connectors and running statistics, with clipped gradients; the file is a student's."""
        got, expected = (load_file(folder / name / 'iter_4.pth') for name in (run, 'ddp'))
        before = load_file(folder / 'ddp' / 'iter_2.pth')
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            names = list(MODELS.build(classifier(False)).state_dict())
        assert list(got['state_dict']) == names
        for part in ('state_dict', 'connectors'):
            assert got[part].keys() == expected[part].keys()
            for name, value in expected[part].items():
                torch.testing.assert_close(
                    got[part][name], value, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f'{n}: {m}'
                )
            assert any((value - before[part][k]).abs().max() > 1e-3 for k, value in expected[part].items())
        assert not any('teacher' in key for part in got.values() if isinstance(part, dict) for key in part)

    def test_firing_rates_are_those_of_both_processes(self, both, folder):
        """By the student's own names, under DDP and FSDP; images of two processes, not of one."""
        ddp, fsdp = (
            json.loads(next((folder / name).glob('*/vis_data/firing_rates.json')).read_text())
            for name in ('ddp', 'fsdp')
        )
        assert list(ddp['layers']) == list(fsdp['layers']) and 'backbone.relu' in ddp['layers']
        for name, layer in ddp['layers'].items():
            assert fsdp['layers'][name]['rate'] == pytest.approx(layer['rate'], rel=1e-2), name
            # 4 iterations of 2 images in each of 2 processes, and as many channels as all places have together
            assert layer['updates'] % 16 == 0
        # the stem's, before the pooling, at T=2
        assert ddp['layers']['backbone.relu']['updates'] == 2 * 16 * 8 * 16 * 16

    def test_is_refused_where_it_cannot_work(self, tmp_path):
        train = runpy.run_path(str(ROOT / 'tools/train.py'))
        config = tmp_path / 'config.py'
        config.write_text("model = dict()\nmodel_wrapper_cfg = dict(type='MMFullyShardedDataParallel')")
        with pytest.raises(ValueError, match='model_wrapper_cfg.type.*FlexibleRunner.*mmsnn.FSDPStrategy'):
            train['read_config'](train['parse_args']([str(config)]))

    def test_sync_bn_in_the_wrong_place(self, tmp_path):
        train = runpy.run_path(str(ROOT / 'tools/train.py'))
        config = tmp_path / 'config.py'
        config.write_text("model = dict()\nrunner_type = 'FlexibleRunner'\nsync_bn = 'torch'")
        with pytest.raises(ValueError, match="sync_bn: .*strategy.sync_bn='torch'"):
            train['read_config'](train['parse_args']([str(config)]))

    def test_testing_shards_nothing(self, tmp_path):
        test = runpy.run_path(str(ROOT / 'tools/test.py'))
        config = tmp_path / 'config.py'
        config.write_text("model = dict()\nrunner_type = 'FlexibleRunner'\nstrategy = dict(type='mmsnn.FSDPStrategy')")
        args = test['parse_args']([str(config), 'x.pth'])
        cfg = test['prepare'](test['read_config'](args), args)
        assert 'runner_type' not in cfg and 'strategy' not in cfg


def test_accumulated_gradients_are_those_of_one_batch():
    """With norms by their running statistics, or every small batch would be normalised by its own."""
    after = {}
    for batches in ([[0, 1, 2, 3]], [[0, 1], [2, 3]]):
        model = ranks.distiller()
        before = {k: p.detach().clone() for k, p in model.named_parameters()}
        optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0), accumulative_counts=len(batches))
        optimizer.initialize_count_status(model, 0, len(batches))
        for images in batches:
            with optimizer.optim_context(model):
                loss = ranks.loss(model, images)
            optimizer.update_params(loss)
        after[len(batches)] = dict(model.named_parameters())
    for name, value in after[1].items():
        assert (value - before[name]).abs().max() > 1e-9
        torch.testing.assert_close(after[2][name], value, rtol=1e-9, atol=1e-12)


class TestMixedPrecision:
    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_on_the_cpu(self, dtype):
        """Autocast around a distilled loss: neurons see half, gradients are float32 and point the same way."""
        found, seen = {}, set()
        for amp in (False, True):
            model = ranks.distiller(train=True).float()
            neurons = [m for m in model.modules() if isinstance(m, Neuron)]
            for neuron in neurons:
                neuron.register_forward_pre_hook(lambda _, x, amp=amp: seen.add((amp, x[0].dtype)))
            with torch.autocast('cpu', dtype=dtype, enabled=amp):
                loss = ranks.loss(model, range(8))
            loss.backward()
            gradients = ranks.gradients(model)
            assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients.values())
            found[amp] = loss.item(), gradients
        assert seen == {(False, torch.float32), (True, dtype)}
        assert found[True][0] == pytest.approx(found[False][0], rel=0.05)
        # behind them, maps of a few pixels where every flipped spike counts
        for name, gradient in found[True][1].items():
            if name.startswith(('backbone.layer1.', 'connectors.loss_feature.0.')):
                assert torch.cosine_similarity(gradient.flatten(), found[False][1][name].flatten(), dim=0) > 0.9, name


class Watch(Hook):
    """Losses of every iteration, and the layouts that convolutions and neurons were given and hold."""

    def before_train(self, runner):
        self.losses, self.layouts = [], {}
        parts = dict(student=runner.model, teacher=runner.model.teacher.model)
        for part, model in parts.items():
            for name, module in model.named_modules():
                if isinstance(module, nn.Conv2d | Neuron):
                    module.register_forward_hook(partial(self.see, f'{part}.{name}'))

    def see(self, name, module, inputs, out):
        # images and means over time come as they are
        tensors = [out] if inputs[0].shape[1] == 3 or '.connectors.' in name else [*inputs, out]
        self.layouts[name] = all(t.is_contiguous(memory_format=torch.channels_last) for t in tensors)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append({k: v.item() for k, v in outputs.items()})


def distil(folder, hooks=(), **kwargs) -> Watch:
    """Two iterations of a distilled training of one stage."""
    watch = Watch()
    one = dict(num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,), head=dict(in_channels=8))
    student, teacher = classifier(True, neuron=dict(type='LIF', v_threshold=0.2), **one), classifier(False, **one)
    losses = dict(ranks.LOSSES, loss_feature=dict(ranks.LOSSES['loss_feature'], student=STAGE, teacher=STAGE))
    model = dict(type='mmsnn.Distiller', student=student, teacher=teacher, losses=losses)
    hooks = [*hooks, dict(type='mmsnn.DistillHook'), watch]
    runner(model, 'mmpretrain', folder, iterations=2, custom_hooks=hooks, **kwargs).train()
    return watch


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    return distil(tmp_path_factory.mktemp('plain'))


class TestWholeTraining:
    def test_channels_last(self, plain, tmp_path):
        """The same losses up to rounding, which may move single spikes; every layer in the other layout."""
        got = distil(tmp_path, [dict(type='mmsnn.ChannelsLastHook')])
        assert len(got.layouts) == 16 and all(got.layouts.values()), got.layouts
        for losses, expected in zip(got.losses, plain.losses, strict=True):
            assert losses == pytest.approx(expected, rel=2e-2)

    def test_compile(self, plain, tmp_path):
        got = distil(tmp_path, cfg=dict(compile=dict(backend='eager')))
        for losses, expected in zip(got.losses, plain.losses, strict=True):
            assert losses == pytest.approx(expected, rel=1e-4)


def test_sync_bn_in_one_process_still_runs_fused():
    """mmengine turns SyncBN into a norm of its own there."""
    model = SEWResNet(18, T=2, base_channels=8, norm_cfg=dict(type='SyncBN'))
    model = revert_sync_batchnorm(model)
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    assert model.layer1[0].neuron1.can_fuse(model.layer1[0].bn1)
    plain = SEWResNet(18, T=2, base_channels=8)
    plain.load_state_dict(model.state_dict())
    x = torch.randn(3, 2, 3, 32, 32)
    for got, expected in zip(model(x), plain(x)):
        assert torch.equal(got, expected)
