"""Losses on answers that know labels, relations or the teacher's classifier, worked out number by number."""

import copy
import math

import pytest
import torch
from formulas import approx, kl, maps, mean, one_hot, samples, soft_ce, softmax, wave
from torch import nn

from mmsnn.distill import DIST, EnOF, LogitKL, WeightedSoftLabels
from mmsnn.distill.losses import soft_targets


class TestSoftTargets:
    def test_labels_and_scores(self):
        like = torch.zeros(3, dtype=torch.float64)
        found = soft_targets(samples(2, [0.25, 0.75, 0.0], 0), 3, like)
        assert found.dtype == torch.float64
        assert found.tolist() == [[0, 0, 1], [0.25, 0.75, 0], [1, 0, 0]]

    def test_data_samples_of_mmpretrain(self):
        from mmpretrain.structures import DataSample

        mixed = DataSample().set_gt_label(1).set_gt_score(torch.tensor([0.5, 0.5, 0.0]))
        found = soft_targets([DataSample().set_gt_label(2), mixed], 3, torch.zeros(1))
        assert found.tolist() == [[0, 0, 1], [0.5, 0.5, 0]]

    @pytest.mark.parametrize(
        'wrong, match',
        [
            (None, 'no data samples'),
            ([object()], 'data sample 0 has neither gt_label nor gt_score'),
            ([*samples(1), *samples([0.5, 0.5])], r'gt_score of data sample 1 has shape \(2,\), the logits 3'),
        ],
    )
    def test_errors(self, wrong, match):
        with pytest.raises(ValueError, match=match):
            soft_targets(wrong, 3, torch.zeros(1))

    def test_several_labels(self):
        sample = samples(1)
        sample[0].gt_label = torch.tensor([0, 2])
        with pytest.raises(ValueError, match='data sample 0 has 2 labels'):
            soft_targets(sample, 3, torch.zeros(1))


class TestWeightedSoftLabels:
    @staticmethod
    def formula(s, t, targets, tau):
        total = []
        for a, b, y in zip(s.tolist(), t.tolist(), targets):
            weight = 1 - math.exp(-soft_ce(y, a) / (soft_ce(y, b) + 1e-7))
            total.append(weight * soft_ce(softmax(b, tau), [v / tau for v in a]))
        return tau**2 * mean(total)

    @pytest.mark.parametrize('tau', [1.0, 2.0, 4.0])
    def test_formula(self, tau):
        s, t = maps(3, 5), maps(3, 5)
        expected = self.formula(s, t, [one_hot(k, 5) for k in (1, 4, 0)], tau)
        assert WeightedSoftLabels(tau)([s], [t], samples(1, 4, 0)).item() == pytest.approx(expected, **approx)

    def test_formula_under_mixup(self):
        s, t = maps(2, 3), maps(2, 3)
        targets = [[0.3, 0.7, 0.0], [0.0, 0.0, 1.0]]
        expected = self.formula(s, t, targets, 2.0)
        assert WeightedSoftLabels()([s], [t], samples(*targets)).item() == pytest.approx(expected, **approx)

    @pytest.mark.parametrize(
        'tau, figure', [(1.0, 0.9178393275839226), (2.0, 3.801040539283547), (4.0, 15.527006252631548)]
    )
    def test_released_code(self, tau, figure):
        """BKDSNN's get_logits_loss (imagenet and cifar10dvs, commit dd6bd53), run apart from this."""
        s, t = wave(4, 5), wave(4, 5, phase=1.0)
        assert WeightedSoftLabels(tau)([s], [t], samples(0, 3, 2, 4)).item() == pytest.approx(figure, rel=1e-5)

    def test_released_code_under_mixup(self):
        """The version of Spikingformer-CML/imagenet, on labels of which 30 per cent are another image's."""
        mixed = [[0.7 * (k == a) + 0.3 * (k == b) for k in range(5)] for a, b in zip((0, 3, 2, 4), (1, 3, 0, 2))]
        s, t = wave(4, 5), wave(4, 5, phase=1.0)
        assert WeightedSoftLabels()([s], [t], samples(*mixed)).item() == pytest.approx(4.314635657557298, rel=1e-5)

    @pytest.mark.parametrize(
        'targets, figure',
        [
            ((0, 3, 2, 4), 3.863105263867247),
            ([[0.7 * (k == a) + 0.3 * (k == b) for k in range(5)] for a, b in zip((0, 3, 2, 4), (4, 2, 3, 0))],
             3.633813748983492),
        ],
        ids=['unmixed', 'mixup'],
    )  # fmt: skip
    def test_released_code_under_label_smoothing(self, targets, figure):
        """The same version on labels that timm's Mixup has smoothed by 0.1, run apart from this."""
        s, t = wave(4, 5), wave(4, 5, phase=1.0)
        value = WeightedSoftLabels(label_smooth=0.1)([s], [t], samples(*targets)).item()
        assert value == pytest.approx(figure, rel=1e-5)

    @pytest.mark.parametrize('share', [-0.1, 1.0])
    def test_label_smooth_is_a_share(self, share):
        with pytest.raises(ValueError, match=rf'label_smooth={share} must be in \[0, 1\)'):
            WeightedSoftLabels(label_smooth=share)

    def test_weight_has_no_gradient(self):
        """The gradient is that of the soft cross-entropy, times a constant: tau * w * (p_S - p_A) / B."""
        s, t = maps(1, 4).requires_grad_(), maps(1, 4)
        WeightedSoftLabels(2.0)([s], [t], samples(3)).backward()
        y = one_hot(3, 4)
        weight = 1 - math.exp(-soft_ce(y, s[0].tolist()) / (soft_ce(y, t[0].tolist()) + 1e-7))
        p, q = (softmax(z[0].tolist(), 2.0) for z in (s, t))
        assert s.grad[0].tolist() == pytest.approx([2 * weight * (a - b) for a, b in zip(p, q)], **approx)


def test_sakd_released_code():
    """SAKD's logits_loss (imagenet/loss_kd.py, commit 70c761d), run apart from this."""
    s, t = wave(4, 5), wave(4, 5, phase=1.0)
    assert LogitKL(1.0)([s], [t]).item() == pytest.approx(0.3541052306581216, rel=1e-5)
    assert LogitKL(4.0)([s], [t]).item() == pytest.approx(0.5405458279945613, rel=1e-5)


def correlation(a, b):
    a, b = ([v - mean(x) for v in x] for x in (a, b))
    return sum(u * v for u, v in zip(a, b)) / math.sqrt(sum(u * u for u in a) * sum(v * v for v in b))


class TestDIST:
    @pytest.mark.parametrize('tau', [1.0, 4.0])
    def test_formula(self, tau):
        s, t = maps(3, 5), maps(3, 5)
        p, q = ([softmax(row, tau) for row in z.tolist()] for z in (s, t))
        inter = mean(1 - correlation(a, b) for a, b in zip(p, q))
        intra = mean(1 - correlation(a, b) for a, b in zip(zip(*p), zip(*q)))
        expected = tau**2 * (0.7 * inter + 2 * intra)
        assert DIST(beta=0.7, gamma=2.0, tau=tau)([s], [t]).item() == pytest.approx(expected, **approx)

    def test_pixels_are_samples(self):
        s, t = maps(2, 5, 3, 4), maps(2, 5, 3, 4)
        rows = [z.permute(0, 2, 3, 1).reshape(-1, 5) for z in (s, t)]
        assert DIST()([s], [t]).item() == pytest.approx(DIST()([rows[0]], [rows[1]]).item(), **approx)


class TestEnOF:
    @staticmethod
    def teacher(bias=True):
        teacher = nn.Module()
        teacher.head = nn.Module()
        teacher.head.fc = nn.Linear(3, 4, bias=bias).double()
        return teacher

    @pytest.mark.parametrize('bias', [True, False])
    def test_formula(self, bias):
        teacher = self.teacher(bias)
        weight = teacher.head.fc.weight.tolist()
        b = teacher.head.fc.bias.tolist() if bias else [0.0] * 4

        def logits(row):
            return [sum(w * f for w, f in zip(ws, row)) + c for ws, c in zip(weight, b)]

        s, t = maps(2, 3), maps(2, 3)
        for tau in (1.0, 2.0):
            loss = EnOF(tau)
            loss.bind(None, teacher)
            expected = mean(kl(logits(y), logits(x), tau) for x, y in zip(s.tolist(), t.tolist()))
            assert loss([s], [t]).item() == pytest.approx(expected, **approx)

    def test_classifier_is_frozen_and_shared(self):
        """No gradient, no parameter, no copy; weights that are loaded later count."""
        teacher, loss = self.teacher(), EnOF()
        loss.bind(None, teacher)
        s, t = maps(2, 3).requires_grad_(), maps(2, 3)
        before = loss([s], [t])
        before.backward()
        assert s.grad.abs().sum() > 0 and all(p.grad is None for p in teacher.parameters())
        assert not list(loss.parameters())
        with torch.no_grad():
            teacher.head.fc.weight.mul_(2)
        assert copy.deepcopy(loss)([s], [t]) == loss([s], [t]) != before

    def test_unknown_classifier(self):
        with pytest.raises(ValueError, match="classifier='head.layers' is NoneType in the teacher"):
            EnOF(classifier='head.layers').bind(None, self.teacher())

    def test_features_of_another_width(self):
        loss = EnOF()
        loss.bind(None, self.teacher())
        with pytest.raises(ValueError, match=r'reads features \[B, 3\], got \(2, 5\): tap what enters'):
            loss([maps(2, 5)], [maps(2, 5)])
