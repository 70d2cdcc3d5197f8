"""The Distiller: what it computes, what it shows to the outside, and what it refuses."""

import copy
import os
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.model import ExponentialMovingAverage, MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope
from tiny import CLASSES, MEAN, STD, Noise, classifier, detector
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mmsnn import get_time_steps, set_time_steps
from mmsnn.distill import Distiller, DistillLoss, Progress
from mmsnn.registry import MODELS as OWN_MODELS

STAGES = [f'backbone.layer{i}' for i in range(1, 5)]
FEATURE = dict(type='FeatureMSE', student=STAGES, teacher=STAGES, connector=dict(type='ConvBN'))
LOGITS = dict(type='LogitKL', student='head', teacher='head', tau=2.0)


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def build(losses=None, student=None, teacher=None, init=True, **kwargs) -> Distiller:
    model = MODELS.build(
        dict(
            type='mmsnn.Distiller',
            student=student or classifier(True),
            teacher=teacher or classifier(False),
            losses=losses,
            **kwargs,
        )
    )
    if init:
        model.init_weights()
    return model


def inputs(model, *indices, training=False):
    data = model.data_preprocessor(Noise('mmpretrain').batch(*(indices or (0, 1, 2))), training)
    return data['inputs'], data['data_samples']


@OWN_MODELS.register_module(name='TestStepMean', force=True)
class StepMean(DistillLoss):
    """The mean of a student's steps, without a teacher."""

    time = 'steps'
    needs_teacher = False

    def forward(self, student, teacher, data_samples=None):
        assert teacher == [] and data_samples
        return torch.stack([x.mean() for x in student]).mean()


class TestTerms:
    def test_feature_term(self):
        """The connector of the student's time mean against the teacher's feature, summed over stages, weighted."""
        model = build(dict(loss_feature={**FEATURE, 'weight': 0.5})).eval()
        images, samples = inputs(model)
        losses = model.loss(images, samples)
        ours, theirs = model.student.backbone(images), model.teacher.model.backbone(images)
        expected = sum(F.mse_loss(c(s), t) for c, s, t in zip(model.connectors.loss_feature, ours, theirs))
        assert len(ours) == len(theirs) == 4
        torch.testing.assert_close(losses['loss_feature'], 0.5 * expected)
        assert torch.equal(losses['loss'], model.student.loss(images, samples)['loss'])

    def test_response_term(self):
        model = build(dict(loss_kl=LOGITS)).eval()
        images, samples = inputs(model)
        ours, theirs = (m(images, mode='tensor') for m in (model.student, model.teacher.model))
        assert ours.shape == theirs.shape == (3, CLASSES)
        expected = 4 * F.kl_div((ours / 2).log_softmax(1), (theirs / 2).softmax(1), reduction='batchmean')
        torch.testing.assert_close(model.loss(images, samples)['loss_kl'], expected)

    def test_pipe(self):
        """The logits of single steps, of a network whose head sees their mean."""
        model = build(dict(a=dict(type='TestStepMean', student='backbone.layer4|neck|head')), teacher=None)
        assert model.teacher is None and model.teachers == {}
        images, samples = inputs(model)
        model.eval()
        found = model.loss(images, samples)
        logits = model.student(images, mode='tensor')
        # linear behind the stage: the mean over steps of the logits is the logits of the mean
        torch.testing.assert_close(found['loss_a'], logits.mean())
        found['loss_a'].backward()
        assert model.student.backbone.conv1.weight.grad.abs().sum() > 0

    def test_several_teachers(self):
        other = classifier(False)
        teachers = dict(second=dict(config=other))
        losses = dict(loss_one=LOGITS, loss_two={**LOGITS, 'from_teacher': 'second'})
        model = build(losses, teachers=teachers).eval()
        assert list(model.teachers) == ['teacher', 'second']
        assert not any('second' in key or 'teacher' in key for key in model.state_dict())
        with torch.no_grad():
            model.teachers['second'].model.head.fc.weight.neg_()
        images, samples = inputs(model)
        student = model.student(images, mode='tensor')
        found = model.loss(images, samples)
        for name, of in (('loss_one', 'teacher'), ('loss_two', 'second')):
            logits = model.teachers[of].model(images, mode='tensor')
            expected = 4 * F.kl_div((student / 2).log_softmax(1), (logits / 2).softmax(1), reduction='batchmean')
            torch.testing.assert_close(found[name], expected)
        assert not torch.equal(found['loss_one'], found['loss_two'])

    def test_a_teacher_that_nobody_asks_is_not_built(self):
        teachers = dict(second=dict(config='no/such/config.py'))
        assert list(build(dict(loss_kl=LOGITS), teachers=teachers).teachers) == ['teacher']

    def test_task_weight(self):
        plain, weighted = build(dict(loss_kl=LOGITS)).eval(), build(dict(loss_kl=LOGITS), task_weight=0.25).eval()
        weighted.load_state_dict(plain.state_dict())
        weighted.teacher.model.load_state_dict(plain.teacher.model.state_dict())
        images, samples = inputs(plain)
        one, other = plain.loss(images, samples), weighted.loss(images, samples)
        torch.testing.assert_close(other['loss'], one['loss'] / 4)
        assert torch.equal(other['loss_kl'], one['loss_kl'])

    @pytest.mark.parametrize(
        'config, message',
        [
            (
                dict(losses=dict(loss_a={**LOGITS, 'from_teacher': 'b'})),
                "loss_a: from_teacher='b' is none of the teachers teacher",
            ),
            (dict(losses=dict(a=dict(type='TestStepMean', student='backbone.layer4|nek'))), "'nek' names no module"),
            (
                dict(losses=dict(loss_a={**LOGITS, 'from_teacher': 'b'}), teachers=dict(b=dict(config='nowhere.py'))),
                'model.teachers.b.config=.*nowhere.py',
            ),
        ],
    )
    def test_errors_of_several(self, config, message):
        with pytest.raises(ValueError, match=message):
            build(**config)

    def test_terms_train_student_and_connectors_alone(self):
        model = build(dict(loss_feature=FEATURE, loss_kl=LOGITS))
        total, shown = model.parse_losses(model.loss(*inputs(model)))
        total.backward()
        assert {'loss_feature', 'loss_kl', 'loss'} <= shown.keys()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert all(p.grad.abs().sum() > 0 for p in model.connectors.parameters() if p.dim() > 1)
        assert all(p.grad is None and not p.requires_grad for p in model.teacher.model.parameters())
        assert not any(m.training for m in model.teacher.model.modules())

    def test_teacher_stays_in_eval_mode(self):
        model = build(dict(loss_feature=FEATURE), teacher=classifier(False, head=dict(num_classes=CLASSES)))
        before = {k: v.clone() for k, v in model.teacher.model.state_dict().items()}
        model.train()
        for _ in range(2):
            model.loss(*inputs(model))
        assert all(torch.equal(v, before[k]) for k, v in model.teacher.model.state_dict().items())

    def test_weights_follow_the_progress(self):
        weight = dict(kind='step', values=[10, 0.01], milestones=[11], by='iter_in_epoch')
        model = build(dict(loss_feature={**FEATURE, 'weight': weight})).eval()
        batch = inputs(model)
        values = []
        for i in (0, 10, 11):
            model.progress = Progress(epoch=3, iter=100 + i, iter_in_epoch=i)
            values.append(model.loss(*batch)['loss_feature'].item())
        assert values[0] == values[1] == pytest.approx(1000 * values[2], rel=1e-5)

    def test_stopped_term_stays_in_the_graph(self):
        model = build(dict(loss_feature={**FEATURE, 'weight': dict(stop=2)}))
        model.progress = Progress(epoch=2)
        losses = model.loss(*inputs(model))
        assert losses['loss_feature'] == 0
        losses['loss_feature'].backward()
        assert all(p.grad is not None and not p.grad.any() for p in model.connectors.parameters())

    def test_teacher_whose_train_returns_nothing(self):
        """As that of mmdet's LAD and of its own distillers."""
        from mmpretrain.models import ImageClassifier
        from mmpretrain.registry import MODELS as PRETRAIN

        @PRETRAIN.register_module(name='TestSilentClassifier', force=True)
        class Silent(ImageClassifier):
            def train(self, mode=True):
                super().train(mode)

        model = build(dict(loss_a=FEATURE), teacher={**classifier(False), 'type': 'mmpretrain.TestSilentClassifier'})
        model.train()
        assert not any(p.requires_grad for p in model.teacher.model.parameters()) and not model.teacher.model.training

    def test_features_of_other_places_are_named(self, monkeypatch):
        """As those of autoencoders, which mask the images at random."""
        model = build(dict(loss_a=FEATURE))
        model.init_weights()
        backbone = model.student.backbone
        monkeypatch.setattr(backbone.layer1, 'forward', lambda x, run=backbone.layer1.forward: run(x)[:, :, 1:])
        with pytest.raises(ValueError, match='model.losses.loss_a: FeatureMSE cannot compare .* mask their images'):
            model.loss(*inputs(model))

    def test_name_without_loss_gets_it(self):
        """Task libraries add up what has "loss" in its name."""
        model = build(dict(feature=FEATURE)).eval()
        losses = model.loss(*inputs(model))
        assert set(losses) == {'loss', 'loss_feature'}
        total, _ = model.parse_losses(losses)
        torch.testing.assert_close(total, sum(losses.values()))

    def test_connectors_are_as_wide_as_both_sides(self):
        model = build(
            dict(loss_feature=FEATURE),
            teacher=classifier(False, base_channels=4, stem_channels=4, head=dict(in_channels=32)),
        )
        widths = [(c[0].in_channels, c[0].out_channels) for c in model.connectors.loss_feature]
        assert widths == [(8, 4), (16, 8), (32, 16), (64, 32)]
        assert model.loss(*inputs(model))['loss_feature'] > 0

    def test_detector(self):
        losses = dict(
            loss_feature=FEATURE,
            loss_response=dict(type='DenseResponse', student='bbox_head[0]', teacher='bbox_head[0]'),
        )
        with DefaultScope.overwrite_default_scope('mmdet'):
            model = build(losses, student=detector(True), teacher=detector(False)).eval()
            data = model.data_preprocessor(Noise('mmdet').batch(0, 1), True)
            found = model.loss(**data)
        assert set(found) == {'loss_cls', 'loss_bbox', 'loss_feature', 'loss_response'}
        scores = [m.bbox_head(m.extract_feat(data['inputs']))[0] for m in (model.student, model.teacher.model)]
        torch.testing.assert_close(found['loss_response'], model.terms[1].loss(*scores))
        assert model.terms[1].loss.num_classes == CLASSES


class TestTeacherInput:
    """The teacher sees each image as its own preprocessor would have made it."""

    @pytest.mark.parametrize(
        'ours',
        [
            dict(),
            dict(mean=[100.0, 110.0, 120.0], std=[50.0, 60.0, 70.0]),
            dict(mean=MEAN[::-1], std=STD[::-1], to_rgb=False),
        ],
    )
    @pytest.mark.parametrize('theirs', [dict(), dict(mean=[1.0, 2.0, 3.0], std=[0.5, 0.6, 255.0], to_rgb=False)])
    def test_classifier(self, ours, theirs):
        normal = dict(type='mmpretrain.ClsDataPreprocessor', mean=MEAN, std=STD, to_rgb=True)
        model = build(
            dict(loss_kl=LOGITS),
            student=classifier(True, data_preprocessor={**normal, **ours}),
            teacher=classifier(False, data_preprocessor={**normal, **theirs}),
        )
        teacher = model.teacher.model
        images = [item for item in Noise('mmpretrain').images[:3]]
        raw = dict(inputs=images)
        expected = teacher.head(teacher.extract_feat(teacher.data_preprocessor(raw)['inputs']))
        seen = []
        teacher.head.register_forward_hook(lambda *args: seen.append(args[2]))
        model.loss(*inputs(model))
        torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize('bgr_to_rgb', [True, False])
    def test_detector(self, bgr_to_rgb):
        student, teacher = detector(True), detector(False)
        teacher['data_preprocessor'].update(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=bgr_to_rgb)
        with DefaultScope.overwrite_default_scope('mmdet'):
            model = build(dict(loss_feature=FEATURE), student=student, teacher=teacher)
        teacher = model.teacher.model
        batch = Noise('mmdet').batch(0, 1)
        expected = teacher.data_preprocessor(copy.deepcopy(batch), True)['inputs']
        seen = []
        teacher.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        model.loss(**model.data_preprocessor(batch, True))
        torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=1e-3)


class TestOutside:
    """To whoever holds it, a Distiller is its student."""

    def test_prediction_is_the_students(self):
        model = build(dict(loss_kl=LOGITS)).eval()
        data = Noise('mmpretrain').batch(0, 1, 2)
        with torch.no_grad():
            ours, alone = model.test_step(copy.deepcopy(data)), model.student.test_step(copy.deepcopy(data))
            assert all(torch.equal(a.pred_score, b.pred_score) for a, b in zip(ours, alone))
            images, samples = inputs(model)
            for mode in ('tensor', 'predict'):
                a, b = (m(images, copy.deepcopy(samples), mode=mode) for m in (model, model.student))
                assert type(a) is type(b) and len(a) == len(b)

    def test_names(self):
        model, plain = build(dict(loss_feature=FEATURE)), MODELS.build(classifier(True))
        assert list(model.state_dict()) == list(plain.state_dict())
        names = [n for n, _ in model.named_parameters() if not n.startswith('connectors.')]
        assert names == [n for n, _ in plain.named_parameters()]
        assert model.backbone is model.student.backbone and model.head is model.student.head
        assert model.data_preprocessor is model.student.data_preprocessor
        assert not hasattr(model, 'bbox_head')
        plain.load_state_dict(model.state_dict())
        with torch.no_grad():
            plain.backbone.conv1.weight.fill_(3)
        model.load_state_dict(plain.state_dict())
        assert model.student.backbone.conv1.weight.eq(3).all()

    def test_teacher_is_no_submodule_but_follows(self):
        model = build(dict(loss_feature=FEATURE))
        teacher = model.teacher.model
        assert not any(m is teacher for m in model.modules())
        assert {id(p) for p in model.parameters()}.isdisjoint({id(p) for p in teacher.parameters()})
        model.double()
        assert next(teacher.parameters()).dtype == torch.float64
        images, samples = inputs(model)
        assert model.loss(images.double(), samples)['loss_feature'].isfinite()

    def test_copies_share_the_teacher(self):
        model = build(dict(loss_feature=FEATURE))
        average = ExponentialMovingAverage(model)
        assert average.module.teacher is model.teacher and average.module.student is not model.student
        assert average.module.connectors is not model.connectors
        model.loss(*inputs(model))['loss_feature'].backward()
        average.update_parameters(model)
        other = copy.deepcopy(model)
        assert other.loss(*inputs(other))['loss_feature'].isfinite()

    def test_data_preprocessor_is_handed_on(self):
        """A runner puts the config's top-level one on the outermost model."""
        student = classifier(True)
        given = dict(type='mmpretrain.ClsDataPreprocessor', mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0])
        own = student.pop('data_preprocessor')
        model = build(dict(loss_kl=LOGITS), student=student, data_preprocessor=given)
        assert model.student.data_preprocessor.mean.flatten().tolist() == [1, 2, 3]
        assert sum('data_preprocessor' in n for n, _ in model.named_children()) == 0
        assert 'data_preprocessor' not in student
        # its own comes first
        model = build(dict(loss_kl=LOGITS), student={**student, 'data_preprocessor': own}, data_preprocessor=given)
        assert model.data_preprocessor.mean.flatten().tolist() == pytest.approx(MEAN)

    def test_time_steps(self):
        model = set_time_steps(build(dict(loss_feature=FEATURE)), 3)
        assert get_time_steps(model) == 3
        assert model.loss(*inputs(model))['loss_feature'].isfinite()

    def test_spiking_teacher_has_steps_of_its_own(self):
        model = build(dict(loss_feature=FEATURE), teacher=classifier(True, T=4)).eval()
        batch = inputs(model)
        with torch.no_grad():
            got = model.loss(*batch)['loss_feature']
            ours, theirs = model.student.backbone(batch[0]), model.teacher.model.backbone(batch[0])
            expected = sum(F.mse_loss(c(s), t) for c, s, t in zip(model.connectors.loss_feature, ours, theirs))
        torch.testing.assert_close(got, expected)

    def test_initialised_twice(self):
        """The second call copies nothing: the first teacher may be gone by then, and the student may have learned."""
        kept = dict(config=classifier(False))
        model = build(dict(loss_kl=dict(LOGITS, from_teacher='big')), teachers=dict(big=kept), transfer=True)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        model.init_weights()
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        alone = build(transfer=True)
        alone.init_weights()
        assert alone.teacher is None

    def test_without_losses_there_is_no_teacher(self):
        model = MODELS.build(dict(type='mmsnn.Distiller', student=classifier(True)))
        model.init_weights()
        assert model.teacher is None and len(model.connectors) == 0
        assert set(model.loss(*inputs(model))) == {'loss'}
        # a teacher that nothing asks for is not even built
        assert build(teacher='no/such/config.py').teacher is None


class TestTeacher:
    def test_a_copy_that_moves_has_its_own(self):
        """Copies share the teacher, as averages of weights want it, until one of them moves."""
        model = build(dict(loss_kl=LOGITS))
        before = model.teacher.model
        still, moved = copy.deepcopy(model), copy.deepcopy(model)
        moved.double()
        assert still.teacher.model is before is not moved.teacher.model
        types = [next(m.teacher.model.parameters()).dtype for m in (model, still, moved)]
        assert types == [torch.float32, torch.float32, torch.float64]
        own = moved.teacher.model
        moved.float()
        assert moved.teacher.model is own and next(own.parameters()).dtype == torch.float32
        model.double()
        assert model.teacher.model is before and next(before.parameters()).dtype == torch.float64

    def test_checkpoint(self, tmp_path):
        teacher = MODELS.build(classifier(False))
        for parameter in teacher.parameters():
            parameter.data.normal_()
        file = tmp_path / 'teacher.pth'
        torch.save(dict(state_dict=teacher.state_dict()), file)
        model = build(dict(loss_kl=LOGITS), teacher_checkpoint=str(file))
        state = model.teacher.model.state_dict()
        assert not model.teacher.random and 'teaches noise' in build(dict(loss_kl=LOGITS)).teacher.random
        assert all(torch.equal(v, state[k]) for k, v in teacher.state_dict().items())

    def test_a_spiking_teacher_keeps_what_its_neurons_learned(self, tmp_path):
        """A network of more time steps may teach one of fewer."""
        config = classifier(True, neuron=dict(type='PLIF', init_tau=2.0), T=4)
        teacher = MODELS.build(config)
        for parameter in teacher.parameters():
            parameter.data.normal_()
        torch.save(teacher.state_dict(), tmp_path / 'teacher.pth')
        model = build(dict(loss_kl=LOGITS), teacher=config, teacher_checkpoint=str(tmp_path / 'teacher.pth'))
        state = model.teacher.model.state_dict()
        assert any(key.endswith('neuron1.w') for key in state)
        assert all(torch.equal(v, state[k]) for k, v in teacher.state_dict().items())

    def test_config_file(self, tmp_path):
        """Its own scope and its top-level preprocessor hold, whatever the student's are."""
        cfg = classifier(False)
        pre = cfg.pop('data_preprocessor')
        pre['type'] = 'ClsDataPreprocessor'
        file = tmp_path / 'teacher.py'
        file.write_text(f"default_scope = 'mmpretrain'\nmodel = {cfg!r}\ndata_preprocessor = {pre!r}")
        with DefaultScope.overwrite_default_scope('mmdet'):
            model = build(dict(loss_feature=FEATURE), student=detector(True), teacher=str(file))
        assert model.teacher.model.data_preprocessor.mean.flatten().tolist() == pytest.approx(MEAN)

    def test_level_1(self):
        """After the student's own initialisation; alone, the teacher has then done its work."""
        model = build(transfer=True, init=False)
        teacher = model.teacher.model
        model.init_weights()
        state = teacher.state_dict()
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
        assert model.teacher is None and set(model.loss(*inputs(model))) == {'loss'}
        for odd in (1, 'yes'):
            with pytest.raises(TypeError, match='model.transfer must be True, False or a dict'):
                build(transfer=odd)
        assert build(dict(loss_kl=LOGITS), transfer=dict(scope='backbone')).teacher is not None

    def test_level_1_of_another_architecture(self):
        with pytest.raises(ValueError, match='Does the teacher have the same architecture'):
            build(transfer=True, teacher=classifier(False), student=classifier(True, depth=34))

    def test_building_it_touches_no_random_numbers(self):
        states = []
        for losses in (None, dict(loss_feature=FEATURE, loss_kl=LOGITS)):
            torch.manual_seed(3)
            model = build(losses)
            states.append((model.state_dict(), torch.rand(1)))
        assert torch.equal(states[0][1], states[1][1])
        assert all(torch.equal(v, states[1][0][k]) for k, v in states[0][0].items())

    @pytest.mark.parametrize('settings', [dict(teacher='no/such/config.py'), dict(teacher='mmdet::no/such.py')])
    def test_no_such_config(self, settings):
        with pytest.raises(ValueError, match='model.teacher=.*cannot be read'):
            build(dict(loss_kl=LOGITS), **settings)

    @pytest.mark.parametrize(
        'teacher, hint',
        [(dict(model=dict(type='RetinaNet')), 'it looks like a whole config'), (dict(depth=18), 'give the path')],
    )
    def test_teacher_without_type(self, teacher, hint):
        with pytest.raises(ValueError, match=f'model.teacher has no type: {hint}'):
            build(dict(loss_kl=LOGITS), teacher=teacher)

    def test_no_such_checkpoint(self, tmp_path):
        with pytest.raises(
            FileNotFoundError, match=r'model.teacher_checkpoint=.*none.pth(.|\n)*Train the teacher first'
        ):
            build(dict(loss_kl=LOGITS), teacher_checkpoint=str(tmp_path / 'none.pth'))

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            (lambda k: 'layer4' not in k, 'lacks weights of the backbone of ImageClassifier'),
            (lambda k: 'head' not in k, 'lacks weights of ImageClassifier: head.fc.weight, head.fc.bias'),
        ],
    )
    def test_half_a_checkpoint(self, tmp_path, change, message):
        file = tmp_path / 'half.pth'
        state = MODELS.build(classifier(False)).state_dict()
        torch.save({k: v for k, v in state.items() if change(k)}, file)
        with pytest.raises(ValueError, match=f"model.teacher_checkpoint='{file}' is refused: {file} {message}"):
            build(dict(loss_kl=LOGITS), teacher_checkpoint=str(file))

    @pytest.mark.parametrize('wrap', ['_orig_mod.', 'module._orig_mod.'])
    def test_checkpoint_of_a_compiled_model(self, tmp_path, wrap):
        state = MODELS.build(classifier(False)).state_dict()
        torch.save(dict(state_dict={wrap + k: v for k, v in state.items()}), tmp_path / 'teacher.pth')
        model = build(dict(loss_kl=LOGITS), teacher_checkpoint=str(tmp_path / 'teacher.pth'))
        assert all(torch.equal(v, state[k]) for k, v in model.teacher.model.state_dict().items())

    def test_its_own_initialisation_is_checked(self, tmp_path):
        """An ANN's, too, whatever library's."""
        state = MODELS.build(classifier(False)).backbone.state_dict()
        torch.save({k.replace('.conv', '.c'): v for k, v in state.items()}, tmp_path / 'x.pth')
        cfg = classifier(False, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth')))
        with pytest.raises(ValueError, match='model.teacher, .*backbone.init_cfg.checkpoint: .*4 of 20 kernels'):
            build(dict(loss_kl=LOGITS), teacher=cfg)

    def test_checkpoint_of_another_model(self, tmp_path):
        file = tmp_path / 'other.pth'
        torch.save(MODELS.build(classifier(False, depth=34)).backbone.layer1[2].state_dict(), file)
        with pytest.raises(ValueError, match='model.teacher_checkpoint=.*refused'):
            build(dict(loss_kl=LOGITS), teacher_checkpoint=str(file))


class TestRefusals:
    @pytest.mark.parametrize(
        'losses, match',
        [
            (dict(loss_a=dict(type='LogitKL', teacher='head')), 'model.losses.loss_a.student is missing'),
            (dict(loss_a=dict(type='LogitKL', student='head')), 'model.losses.loss_a.teacher is missing'),
            (dict(loss_a={**LOGITS, 'type': 'LogitsKL'}), "model.losses.loss_a: 'LogitsKL' is not registered in mmsnn"),
            (dict(loss_a={k: v for k, v in LOGITS.items() if k != 'type'}), "model.losses.loss_a: .*'type'"),
            (dict(loss_a={**LOGITS, 'temperature': 2}), 'model.losses.loss_a: .*temperature'),
            (dict(loss_a={**LOGITS, 'weight': 'big'}), 'model.losses.loss_a: a weight is a number'),
            (dict(loss_a={**LOGITS, 'student': 'heads'}), "model.losses.loss_a: student tap 'heads' names no module"),
            (
                dict(loss_a={**LOGITS, 'teacher': 'head.fcc'}),
                "model.losses.loss_a: teacher tap 'head.fcc' names no module",
            ),
            (
                dict(loss_a={**FEATURE, 'teacher': STAGES[:2]}),
                'model.losses.loss_a: 4 student taps face 2 of the teacher',
            ),
            (
                dict(loss_a={**FEATURE, 'student': STAGES[:1], 'teacher': STAGES[1:2]}),
                r'model.losses.loss_a: for a 64x64 image, tensor 0 is \(8, 16, 16\) at the student \(backbone.layer1\) '
                r'and \(16, 8, 8\) at the teacher \(backbone.layer2\): tap stages of equal stride',
            ),
            (
                dict(loss_a=dict(type='FeatureMSE', student='backbone.layer1.0.conv1', teacher='head')),
                r'model.losses.loss_a: .*\(5,\) at the teacher \(head\): tap layers whose outputs have the same dim',
            ),
            (
                dict(
                    loss_a=dict(
                        type='FeatureMSE',
                        student='backbone.layer2',
                        teacher='backbone.layer2.0.conv1',
                        connector=dict(type='ConvBN', out_channels=3),
                    )
                ),
                'model.losses.loss_a: .*tap stages of equal width, or set a connector',
            ),
            (
                dict(loss_a=dict(type='AttentionMSE', student='backbone.layer1', teacher='head')),
                r'model.losses.loss_a: AttentionMSE compares maps \[B, C, H, W\], but .* at the teacher \(head\)',
            ),
            (
                dict(loss_a=dict(type='FeatureMSE', student='backbone', teacher='backbone.layer1')),
                r'model.losses.loss_a: tap backbone of the student gives 4 tensors, backbone.layer1 of the teacher 1, '
                r'.*backbone\[0\] taps the first item',
            ),
            (dict(loss_a=dict(type='FeatureMSE', student='head[1]', teacher='head')), r'student tap head\[1\]'),
        ],
    )
    def test_named(self, losses, match):
        with pytest.raises(ValueError, match=match):
            build(losses, init=False)

    def test_no_teacher(self):
        for kwargs in (dict(losses=dict(loss_kl=LOGITS)), dict(transfer=True)):
            with pytest.raises(ValueError, match='model.teacher is missing'):
                MODELS.build(dict(type='mmsnn.Distiller', student=classifier(True), **kwargs))

    def test_name_of_a_loss_of_the_student(self):
        model = build(dict(loss=LOGITS))
        with pytest.raises(ValueError, match='model.losses.loss: the student has a loss of this name'):
            model.loss(*inputs(model))

    def test_frozen_stage(self):
        model = build(dict(loss_feature=FEATURE), student=classifier(True, frozen_stages=2))
        model.train()
        with pytest.raises(ValueError, match='student tap backbone.layer1 carries no gradient.*frozen_stages'):
            model.loss(*inputs(model))

    def test_reentrant_checkpointing(self):
        taps = 'backbone.layer2.0'
        model = build(dict(loss_feature={**FEATURE, 'student': taps, 'teacher': taps}))
        stage = model.backbone.layer2
        forward = stage.forward
        stage.forward = lambda x: checkpoint(forward, x, use_reentrant=True)
        with pytest.raises(ValueError, match='student tap backbone.layer2.0 carries no gradient.*reentrant'):
            model.loss(*inputs(model))

    @pytest.mark.parametrize(
        'losses',
        [dict(loss_feature=FEATURE), dict(loss_kl={**LOGITS, 'weight': dict(stop=3)})],
        ids=['connectors', 'schedule'],
    )
    @pytest.mark.parametrize('wrapped', [False, True])
    def test_training_without_its_hook(self, losses, wrapped):
        """A runner that would train connectors which no checkpoint keeps, or with a schedule that stands still.

        DDP has a training step of its own, which calls parts of the model's.
        """
        model = build(losses)
        step = model.train_step
        if wrapped:
            ddp = SimpleNamespace(module=model, _run_forward=model._run_forward, detect_anomalous_params=False)
            step = partial(MMDistributedDataParallel.train_step, ddp)
        data = Noise('mmpretrain').batch(0, 1)
        optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
        # a loop of one's own, perhaps after a runner
        hub = MessageHub.get_current_instance()
        hub.update_info('iter', 3)
        for _ in range(2):
            step(data, optimizer)
        # a runner counts its steps
        hub.update_info('iter', 4)
        with pytest.raises(RuntimeError, match="custom_hooks = .*type='mmsnn.DistillHook'"):
            step(data, optimizer)
        model.hooked = True
        assert step(data, optimizer)['loss'].isfinite()

    def test_training_that_needs_no_hook(self):
        model = build(dict(loss_kl={**LOGITS, 'weight': 0.5}))
        optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
        for step in range(2):
            MessageHub.get_current_instance().update_info('iter', step)
            assert model.train_step(Noise('mmpretrain').batch(0, 1), optimizer)['loss_kl'].isfinite()


class TestDistributed:
    @pytest.mark.processes
    def test_two_ranks_equal_one_with_the_double_batch(self, tmp_path):
        """Gradients, connectors and a term that stopped, under MMDistributedDataParallel with gloo."""
        here = Path(__file__).parent
        worker, store = here / 'ddp_worker.py', tmp_path / 'store'
        path = os.pathsep.join([str(here.parent / 'support'), str(here.parents[1])])
        workers = [
            subprocess.Popen(
                [sys.executable, str(worker), str(rank), '2', str(store), str(tmp_path / '2.pth')],
                env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': path},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(2)
        ]
        runpy.run_path(str(worker))['main'](0, 1, '', str(tmp_path / '1.pth'))
        outs = [worker.communicate(timeout=300)[0] for worker in workers]
        assert not any(worker.returncode for worker in workers), '\n'.join(outs)
        one, two = (torch.load(tmp_path / f'{n}.pth', weights_only=True) for n in (1, 2))
        for part in ('student', 'connectors'):
            assert one[part].keys() == two[part].keys() and len(one[part])
            for name, value in one[part].items():
                torch.testing.assert_close(two[part][name], value, rtol=1e-5, atol=1e-6)


class TestPrefix:
    """TSSD: a student that answers after the first steps, and after all."""

    SELF = dict(
        type='TemporalSpatialSelf', student=['head.fc', 'backbone.layer2'], connector=[None, dict(type='WeakHead')]
    )

    def make(self, T=4, **kwargs):
        student = classifier(True)
        student['backbone']['T'] = T
        model = build(**{**dict(losses=dict(a=self.SELF), student=student, teacher=None, short_T=1), **kwargs})
        for module in model.student.modules():
            if isinstance(module, nn.BatchNorm2d):
                # so that neurons fire up to the last layer, differently at every step
                nn.init.constant_(module.weight, 4.0)
        return model

    @pytest.mark.parametrize('T, short_T', [(4, 1), (5, 3), (2, 1)])
    def test_is_what_fewer_steps_answer(self, T, short_T):
        model = self.make(T, short_T=short_T, task_weight=2.0).eval()
        images, samples = inputs(model)
        found = model.loss(images, samples)
        answers, stages = {}, {}
        for steps in (short_T, T):
            set_time_steps(model.student, steps)
            answers[steps] = model.student(images, mode='tensor')
            stages[steps] = model.student.backbone(images)[1]
        # the plain network of as many steps, with the same weights
        labels = torch.cat([sample.gt_label for sample in samples])
        torch.testing.assert_close(found['loss'], sum(F.cross_entropy(z, labels) for z in answers.values()))
        weak = model.connectors.loss_a[1](stages[short_T])
        assert weak.shape == answers[T].shape

        def divergence(a, b):
            return 4 * F.kl_div((b / 2).log_softmax(1), (a / 2).softmax(1), reduction='batchmean')

        expected = divergence(answers[T], answers[short_T]) + divergence(answers[short_T], weak)
        torch.testing.assert_close(found['loss_a'], expected)

    @pytest.mark.parametrize('mode', ['tensor', 'predict'])
    def test_validation_runs_the_steps_of_inference(self, mode):
        model = self.make(T=4, short_T=2).eval()
        images, samples = inputs(model)
        answers = {}
        for steps in (2, 4):
            set_time_steps(model.student, steps)
            answers[steps] = model.student(images, mode='tensor')
        found = model(images, samples, mode=mode)
        assert get_time_steps(model.student) == 4 and not torch.equal(answers[2], answers[4])
        if mode == 'predict':
            assert torch.equal(torch.stack([s.pred_score for s in found]), answers[2].softmax(1))
        else:
            assert torch.equal(found, answers[2])

    def test_validation_sees_the_first_frames_of_events(self):
        model = self.make(T=4, short_T=3).eval()
        frames = torch.rand(2, 4, *inputs(model)[0].shape[1:])
        short = model(frames, mode='tensor')
        frames[:, 3] += 1
        assert torch.equal(model(frames, mode='tensor'), short)
        frames[:, 2] += 1
        assert not torch.equal(model(frames, mode='tensor'), short)

    def test_nothing_is_left_behind(self):
        model = self.make().eval()
        images, samples = inputs(model)
        before = model.student(images, mode='tensor')
        model.loss(images, samples)
        assert before.shape[0] == len(images) and torch.equal(model.student(images, mode='tensor'), before)
        assert not any('connectors' in key for key in model.state_dict())

    def test_beside_a_teacher(self):
        """Other terms see all steps, as without a short_T."""
        terms = dict(loss_feature=FEATURE, loss_kl=LOGITS)
        both = self.make(losses=dict(a=self.SELF, **terms), teacher=classifier(False)).eval()
        images, samples = inputs(both)
        found = both.loss(images, samples)
        student, teacher = both.student(images, mode='tensor'), both.teacher.model(images, mode='tensor')
        expected = 4 * F.kl_div((student / 2).log_softmax(1), (teacher / 2).softmax(1), reduction='batchmean')
        torch.testing.assert_close(found['loss_kl'], expected)
        ours, theirs = both.student.backbone(images), both.teacher.model.backbone(images)
        expected = sum(F.mse_loss(c(s), t) for c, s, t in zip(both.connectors.loss_feature, ours, theirs))
        torch.testing.assert_close(found['loss_feature'], expected)

    @pytest.mark.parametrize('short_T', [0, 4, 9, 1.5, True])
    def test_out_of_range(self, short_T):
        with pytest.raises(ValueError, match=rf'model.short_T={short_T} must be .* below the T=4 of training'):
            self.make(short_T=short_T)

    def test_missing(self):
        with pytest.raises(ValueError, match='model.losses.a: model.short_T is missing|model.short_T is missing'):
            self.make(short_T=None)

    def test_norms_that_mix_time_are_named(self):
        student = classifier(True)
        student['backbone'].update(T=4, norm_cfg=dict(type='mmsnn.TEBN', T=4))
        with pytest.raises(ValueError, match=r'model.short_T=1: .*backbone.bn1 \(TEBN\).*mix time.*TDBN'):
            self.make(student=student)

    def test_needs_a_readout(self):
        student = classifier(True)
        student['backbone'].update(T=4, readout='none')
        with pytest.raises(ValueError, match="model.short_T needs a backbone with readout='mean'"):
            self.make(student=student)

    def test_detector(self):
        """Levels and weak head of a dense detector; the losses are those of twice the batch."""
        with DefaultScope.overwrite_default_scope('mmdet'):
            student = detector(True)
            student['backbone']['T'] = 4
            term = dict(
                type='TemporalSpatialSelf', response=dict(type='DenseResponse'),
                student=['bbox_head[0]', 'backbone.layer2'], connector=[None, dict(type='WeakHead', pool=False)],
            )  # fmt: skip
            model = self.make(losses=dict(a=term), student=student, short_T=2)
            data = model.data_preprocessor(Noise('mmdet').batch(0, 1, 2), True)
            losses = model.loss(data['inputs'], data['data_samples'])
            model.parse_losses(losses)[0].backward()
        assert losses['loss_a'] > 0
        weak = model.connectors.loss_a[-1]
        assert weak.weight.grad.any() and weak.out_features == model.bbox_head.retina_cls.out_channels


def test_arguments_of_the_student_in_the_wrong_place():
    with pytest.raises(TypeError, match=r'model\.backbone: a Distiller .* set model\.student\.backbone'):
        Distiller(classifier(spiking=True), backbone=dict(T=2))
