"""Early exit: what it predicts is what all steps say, and sure images take no further step."""

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from tiny import Noise, classifier, detector

from mmsnn import get_time_steps, set_time_steps
from mmsnn.engine.early_exit import EarlyExit
from mmsnn.models import SEWResNet


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def build(lively, T=4, **backbone):
    model = MODELS.build(classifier(True, T=T, **backbone))
    torch.nn.init.normal_(model.head.fc.weight, std=2.0)
    lively(model.backbone, torch.randn(3, 3, 64, 64))
    return model.eval()


def scores(samples):
    return torch.stack([s.pred_score for s in samples])


BATCH = Noise('mmpretrain').batch(*range(6))


@pytest.mark.parametrize(
    'backbone',
    [
        dict(),
        dict(neuron=dict(type='PLIF')),
        dict(neuron=dict(type='ILIF', levels=2)),
        dict(type='mmsnn.SpikingResNet', packed_spikes=True),
        dict(type='mmsnn.MSResNet'),
    ],
    ids=lambda b: b.get('type', b.get('neuron', {}).get('type', 'SEW')),
)
def test_without_exits_it_is_the_whole_network(lively, backbone):
    model = build(lively, **backbone)
    expected = scores(model.test_step(BATCH))
    early = EarlyExit(model, confidence=2)
    torch.testing.assert_close(scores(early.test_step(BATCH)), expected, rtol=1e-4, atol=1e-5)
    assert early.steps == [4] * 6 and get_time_steps(model) == 4
    # and nothing is left of it
    assert torch.equal(scores(model.test_step(BATCH)), expected)
    assert not any('forward' in m.__dict__ for m in model.modules())


def test_each_image_has_the_answer_of_its_own_number_of_steps(lively):
    model = build(lively)
    by_steps = [scores(set_time_steps(model, t).test_step(BATCH)) for t in range(1, 5)]
    set_time_steps(model, 4)
    # a threshold in the middle of what images say after one step, so that some leave and some stay
    confidence = by_steps[0].max(1).values.median().item()
    early = EarlyExit(model, confidence)
    found = early.test_step(BATCH)
    assert len(set(early.steps)) > 1 and early.steps.count(1) >= 3
    for i, (sample, t) in enumerate(zip(found, early.steps)):
        torch.testing.assert_close(sample.pred_score, by_steps[t - 1][i], rtol=1e-4, atol=1e-5)
        first = next((s for s in range(1, 5) if by_steps[s - 1][i].max() >= confidence), 4)
        assert t == first
        assert sample.gt_label == BATCH['data_samples'][i].gt_label


def test_sure_images_are_not_computed(lively):
    model, rows = build(lively), []
    handle = model.backbone.register_forward_hook(lambda _m, inputs, _o: rows.append(len(inputs[0])))
    early = EarlyExit(model, scores(set_time_steps(model, 1).test_step(BATCH)).max(1).values.median().item())
    set_time_steps(model, 4)
    early.T, rows[:] = 4, []
    early.test_step(BATCH)
    handle.remove()
    assert rows == [sum(t > done for t in early.steps) for done in range(len(rows))]
    assert rows[0] == 6 and sum(rows) == sum(early.steps) < 24


def test_everything_leaves_at_once(lively):
    early = EarlyExit(build(lively), confidence=0)
    early.test_step(BATCH)
    early.test_step(BATCH)
    assert early.steps == [1] * 12


def test_event_frames():
    model = MODELS.build(classifier(True, T=3, in_channels=2))
    model.eval()
    frames = torch.poisson(torch.ones(2, 3, 2, 64, 64))
    model.data_preprocessor.forward = lambda data, training: data
    data = dict(inputs=frames, data_samples=None)
    expected = model.head.predict(model.extract_feat(frames))
    found = EarlyExit(model, confidence=2).test_step(data)
    torch.testing.assert_close(scores(found), scores(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ('backbone', 'message'),
    [
        (dict(norm_cfg=dict(type='mmsnn.TEBN', T=2)), 'mixes time'),
        (dict(encoder=dict(type='PoissonEncoder')), 'draws the spikes'),
        (dict(type='mmpretrain.ResNet', stem_channels=8, T=None), 'no spiking neurons'),
    ],
)
def test_refusals(backbone, message):
    config = classifier(True, **backbone)
    if config['backbone']['T'] is None:
        config = classifier(False)
    with pytest.raises(ValueError, match=message):
        EarlyExit(MODELS.build(config), 0.9)


def test_detectors_are_refused():
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(detector(True))
    with pytest.raises(ValueError, match=r'--exit-confidence: RetinaNet is not a classifier.*--T 1 2 4'):
        EarlyExit(model, 0.9)
    with pytest.raises(ValueError, match='is not a classifier'):
        EarlyExit(SEWResNet(18, base_channels=8), 0.9)
