"""What holds for every loss, and the first ones against their formulas, worked out number by number."""

import math
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from formulas import approx, kl, maps, samples, softmax
from torch import nn

from mmsnn.distill import (
    DIST,
    ETC,
    FGD,
    PKD,
    TET,
    TKS,
    AffineMSE,
    AttentionMSE,
    BlurMSE,
    ChannelWiseKL,
    DenseResponse,
    DistillLoss,
    EnOF,
    FeatureMSE,
    LogitKL,
    PixelKL,
    Progress,
    SeAl,
    StepLogitKL,
    StrongWeak,
    TemporalSeparation,
    WeightedSoftLabels,
)
from mmsnn.registry import MODELS


def enof():
    teacher = nn.Module()
    teacher.head = nn.Module()
    teacher.head.fc = nn.Linear(7, 4)
    loss = EnOF()
    loss.bind(None, teacher)
    return loss


def tks():
    loss = TKS()
    loss.progress = Progress(epoch=30, max_epochs=100)
    return loss


# how it is made, and the shape of its two tensors
PAIRS = {
    'FeatureMSE': (FeatureMSE, (3, 4, 5, 6)),
    'BlurMSE': (BlurMSE, (3, 4, 5, 6)),
    'AttentionMSE': (AttentionMSE, (3, 4, 5, 6)),
    'AffineMSE': (lambda: AffineMSE(pool=True), (3, 4, 5, 6)),
    'PKD': (PKD, (3, 4, 5, 6)),
    'FGD': (FGD, (3, 4, 5, 6)),
    'LogitKL': (lambda: LogitKL(tau=2.0), (3, 7)),
    'WeightedSoftLabels': (WeightedSoftLabels, (3, 7)),
    'DIST': (DIST, (3, 7)),
    'EnOF': (enof, (3, 7)),
    'PixelKL': (lambda: PixelKL(tau=2.0), (3, 4, 5, 6)),
    'ChannelWiseKL': (ChannelWiseKL, (3, 4, 5, 6)),
    'DenseResponse': (lambda: DenseResponse(num_classes=4), (3, 8, 5, 6)),
}
# the same for logits of time steps
STEPS = {
    'TET': (TET, (4, 3, 7)),
    'StepLogitKL': (StepLogitKL, (4, 3, 7)),
    'TemporalSeparation': (lambda: TemporalSeparation(alpha=0.4, gamma=0.1, tau=2.0), (4, 3, 7)),
    'ETC': (ETC, (4, 3, 7)),
    'TKS': (tks, (4, 3, 7)),
    'StrongWeak': (StrongWeak, (4, 3, 7)),
    'SeAl': (SeAl, (4, 3, 7)),
}
# that are not 0 where the student equals the teacher: they know the labels
LABELLED = {'WeightedSoftLabels', *STEPS} - {'ETC', 'StrongWeak'}
LABELS = samples(2, 0, 6)


class TestAll:
    @pytest.fixture(params=[*PAIRS, *STEPS])
    def name(self, request):
        return request.param

    @pytest.fixture
    def pair(self, name):
        make, shape = {**PAIRS, **STEPS}[name]
        return make(), maps(*shape), maps(*shape[name in STEPS :])

    @staticmethod
    def value(loss, s, t, times=1, labels=LABELS):
        return loss([s] * times, [t] * times if loss.needs_teacher else [], labels if s.shape[-1] == 7 else None)

    def test_all_are_here(self):
        ours = [c for c in MODELS.module_dict.values() if c.__module__.startswith('mmsnn.')]
        registered = {c.__name__ for c in ours if issubclass(c, DistillLoss)}
        # whose tensors hold two halves, classes and boxes, and sums over layers; their own files have them
        registered -= {'TemporalSpatialSelf', 'BoxResponse', 'FiringRate'}
        assert registered == {*PAIRS, *STEPS}, 'add the new loss to PAIRS or STEPS, and a test of its formula'

    def test_what_does_not_fit_is_refused(self, name, pair):
        """It would broadcast: a softmax over images, for one, in the place of that over classes."""
        loss, s, t = pair
        if not loss.needs_teacher or not loss.same_shape:
            pytest.skip('compares nothing element by element')
        for student, teacher in (([s], [t[:1]]), ([s.unsqueeze(0)], [t]), ([s, s], [t])):
            with pytest.raises(ValueError, match=f'^{name}: '):
                loss(student, teacher, LABELS)
        if name not in STEPS:
            with pytest.raises(ValueError, match=r'the mean over time: unfold\(x, T\).mean\(0\)'):
                loss(teacher=[t], student=[s[:1]])

    def test_equal_features_cost_nothing(self, name, pair):
        loss, s, t = pair
        if name in LABELLED:
            pytest.skip('knows the labels')
        if name in STEPS:
            s = s[:1].repeat(4, 1, 1)
        s.requires_grad_()
        value = self.value(loss, s, s.detach().clone())
        value.backward()
        assert value.dim() == 0 and value.item() == pytest.approx(0, abs=1e-6)
        assert s.grad.abs().max() < 1e-6

    def test_gradient_descends(self, pair):
        """The gradient leads downhill, and none reaches a teacher that is run without grad."""
        loss, s, t = pair
        s.requires_grad_()
        before = self.value(loss, s, t)
        before.backward()
        assert not t.requires_grad and s.grad.abs().sum() > 0
        step = 1e-2 / s.grad.abs().max()
        assert self.value(loss, (s - step * s.grad).detach(), t) < before

    def test_levels(self, name, pair):
        """Of two equal levels the sum is twice the loss, but for those that say they are a mean."""
        loss, s, t = pair
        once, twice = self.value(loss, s, t).item(), self.value(loss, s, t, times=2).item()
        is_mean = isinstance(loss, (DenseResponse, AttentionMSE))
        assert twice == pytest.approx(once if is_mean else 2 * once, **approx)
        if loss.needs_teacher:
            assert once > 0
            with pytest.raises(ValueError):
                loss([s, s], [t], LABELS if name in LABELLED else None)

    def test_mean_over_the_batch(self, name, pair):
        """The same images once more change nothing."""
        loss, s, t = pair
        once = self.value(loss, s, t)
        s, t = torch.cat([s, s], int(name in STEPS)), torch.cat([t, t])
        torch.testing.assert_close(self.value(loss, s, t, labels=LABELS * 2), once)

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_half_precision_is_computed_in_float32(self, pair, dtype):
        loss, s, t = pair
        s, t = s.to(dtype).requires_grad_(), t.to(dtype)
        value = self.value(loss, s, t)
        value.backward()
        assert value.dtype == torch.float32 and s.grad.isfinite().all()
        torch.testing.assert_close(value, self.value(loss, s.float(), t.float()))

    @pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
    def test_a_silent_student_has_a_finite_gradient(self, pair, dtype):
        """No spikes at all, as at the start of a training."""
        loss, s, t = pair
        s = torch.zeros_like(s, dtype=dtype).requires_grad_()
        self.value(loss, s, t.to(dtype)).backward()
        assert s.grad.isfinite().all()


class TestFeatureMSE:
    def test_formula(self):
        """Mean over all elements of each stage, summed over stages."""
        stages = [(maps(2, 3, 4, 4), maps(2, 3, 4, 4)), (maps(2, 5, 2, 2), maps(2, 5, 2, 2))]
        expected = 0.0
        for s, t in stages:
            differences = [(a - b) ** 2 for a, b in zip(s.flatten().tolist(), t.flatten().tolist())]
            expected += sum(differences) / len(differences)
        assert FeatureMSE()(*zip(*stages)).item() == pytest.approx(expected, **approx)

    def test_by_hand(self):
        # (1 + 4) / 2
        assert FeatureMSE()([torch.tensor([[1.0, 2.0]])], [torch.tensor([[0.0, 4.0]])]).item() == 2.5


class TestLogitKL:
    @pytest.mark.parametrize('tau', [1.0, 2.0, 4.0])
    def test_formula(self, tau):
        """Summed over classes, mean over the batch."""
        s, t = maps(3, 5), maps(3, 5)
        expected = sum(kl(b, a, tau) for a, b in zip(s.tolist(), t.tolist())) / 3
        assert LogitKL(tau)([s], [t]).item() == pytest.approx(expected, **approx)

    def test_direction(self):
        """KL(teacher || student): large where the student is sure and the teacher is not."""
        sure, unsure = torch.tensor([[0.0, 20.0]]), torch.tensor([[0.0, 0.0]])
        # .5 log(.5 / e^-20) + .5 log(.5 / 1)
        assert LogitKL()([sure], [unsure]).item() == pytest.approx(10 - math.log(2), rel=1e-5)
        assert LogitKL()([unsure], [sure]).item() == pytest.approx(math.log(2), rel=1e-5)

    def test_gradient(self):
        """tau * (student - teacher) / B: the square of tau keeps the size of the gradient."""
        s, t = maps(3, 5).requires_grad_(), maps(3, 5)
        LogitKL(tau=3.0)([s], [t]).backward()
        for row, a, b in zip(s.grad.tolist(), s.tolist(), t.tolist()):
            expected = [3 * (q - p) / 3 for p, q in zip(softmax(b, 3.0), softmax(a, 3.0))]
            assert row == pytest.approx(expected, **approx)


class TestPixelKL:
    def formula(self, s, t, tau, valid):
        values = [
            kl(t[b, :, h, w].tolist(), s[b, :, h, w].tolist(), tau)
            for b, h, w in product(*(range(n) for n in (s.shape[0], *s.shape[2:])))
            if valid[b, h, w]
        ]
        return sum(values) / max(len(values), 1)

    @staticmethod
    def samples(labels):
        return [SimpleNamespace(gt_sem_seg=SimpleNamespace(data=label[None])) for label in labels]

    @pytest.mark.parametrize('tau', [1.0, 3.0])
    def test_formula(self, tau):
        s, t = maps(2, 3, 4, 5), maps(2, 3, 4, 5)
        every = torch.ones(2, 4, 5)
        assert PixelKL(tau)([s], [t]).item() == pytest.approx(self.formula(s, t, tau, every), **approx)
        labels = torch.randint(3, (2, 4, 5))
        labels[0, :2], labels[1, :, 3] = 255, 255
        expected = self.formula(s, t, tau, labels != 255)
        assert PixelKL(tau)([s], [t], self.samples(labels)).item() == pytest.approx(expected, **approx)

    def test_other_mark_and_size(self):
        """The label map is brought to the size of the logits."""
        s, t = maps(2, 3, 4, 5), maps(2, 3, 4, 5)
        labels = torch.randint(3, (2, 4, 5))
        labels[1, 2:] = 7
        large = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
        expected = self.formula(s, t, 1.0, labels != 7)
        assert PixelKL(ignore_index=7)([s], [t], self.samples(large)).item() == pytest.approx(expected, **approx)

    def test_everything_ignored(self):
        s, t = maps(2, 3, 4, 5).requires_grad_(), maps(2, 3, 4, 5)
        value = PixelKL()([s], [t], self.samples(torch.full((2, 4, 5), 255)))
        value.backward()
        assert value == 0 and not s.grad.any()


class TestChannelWiseKL:
    @pytest.mark.parametrize('tau', [1.0, 4.0])
    def test_formula(self, tau):
        """Softmax over the positions of a channel; mean over batch and channels."""
        s, t = maps(2, 3, 4, 5), maps(2, 3, 4, 5)
        values = [
            kl(t[b, c].flatten().tolist(), s[b, c].flatten().tolist(), tau) for b, c in product(range(2), range(3))
        ]
        assert ChannelWiseKL(tau)([s], [t]).item() == pytest.approx(sum(values) / 6, **approx)

    def test_default_temperature(self):
        s, t = maps(2, 3, 4, 5), maps(2, 3, 4, 5)
        assert ChannelWiseKL()([s], [t]) == ChannelWiseKL(4.0)([s], [t])
